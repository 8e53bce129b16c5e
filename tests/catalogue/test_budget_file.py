"""The file of budgets: what it says of a case, what it refuses, and this repository's own."""

import dataclasses
import itertools
from pathlib import Path

import msgspec
import pytest
from builders import make_record
from msgspec import UNSET

from peft_regress.baselines.references import read_references
from peft_regress.baselines.storage import baseline_files, read_entries_of
from peft_regress.cases import Case
from peft_regress.catalogue.budget_file import read_budgets
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.errors import InputError
from peft_regress.gate.judge import judge
from peft_regress.project.budgets import Budget
from peft_regress.project.settings import read_settings
from peft_regress.runs.schema import with_budget

ROOT = Path(__file__).parents[2]
LORA, FULL = "shift/lora-r4/resnet18", "shift/full/resnet18"
TWO_GROUPS = """
[all]
reason = "fits the phone"
[all.cases]
"shift/*/resnet18" = {peak = "256 MiB", peak_of_full = 0.9}
[lora]
reason = "LoRA needs less"
cases."*/lora-r*/*" = {peak_of_full = 0.4, peak_b32_of_full = 1, score = 0.7}
"""


def write(folder, text):
    file = folder / "budgets.toml"
    file.write_text(text)
    return file


def group(limits, glob=LORA):
    return f'[one]\nreason = "r"\ncases."{glob}" = {limits}'


def test_later_globs_go_before_earlier_ones_and_shares_are_of_full_fine_tuning(tmp_path):
    budgets = read_budgets(write(tmp_path, TWO_GROUPS))
    assert budgets(Case.parse(LORA)) == Budget(
        peak="256 MiB", of=FULL, peak_of=0.4, peak_b32_of=1, score=0.7
    )
    assert budgets(Case.parse("unseen/lora-r1/mobilenet_v2")) == Budget(
        of="unseen/full/mobilenet_v2", peak_of=0.4, peak_b32_of=1, score=0.7
    )
    assert budgets(Case.parse("unseen/head/resnet18")) is None


def test_a_record_gets_the_budget_of_its_case_unless_the_case_states_one(tmp_path):
    budgets = read_budgets(write(tmp_path, group('{update = "2 GFLOP"}')))
    found = with_budget(make_record(LORA), budgets)
    assert found.budget == Budget(update=2 * 10**9)
    assert with_budget(make_record(FULL), budgets).budget is UNSET
    stated = make_record(LORA, budget=Budget(peak=1))
    assert with_budget(stated, budgets) == stated


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[one", "is not valid TOML"),
        ("one = 1", "group 'one': Expected `object`, got `int`"),
        ('[one]\nreasons = "r"', "unknown key of .*group 'one' 'reasons'. Did you mean 'reason'"),
        (f'[one]\ncases."{LORA}" = {{score = 1}}', "group 'one': .* required field `reason`"),
        ('[one]\nreason = "r"', "group 'one': .* required field `cases`"),
        (group("3"), "group 'one': Expected `object`, got `int` - at .*cases"),
        (group("{peek_of_full = 1}"), "group 'one': Invalid enum value 'peek_of_full'"),
        (group('{peak = "5 kg"}'), f"cases '{LORA}': budget peak='5 kg' is not an amount"),
        (group('{peak = "1e400 MiB"}'), "budget peak='1e400 MiB' is too large"),
        (group(f"{{peak_of_full = 1{'0' * 400}}}"), "Number out of range"),
        (f"one = 1{'0' * 5000}", "is not valid TOML .*4300 digits"),
        (group("{ship_of_full = 0}"), "budget ship_of=0.0 is not a share, such as"),
        (group("{score = 1}", "shift/lore-*"), "'shift/lore-.*': no case has such an id; `peft-re"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as raised:
        read_budgets(write(tmp_path, text))
    assert str(tmp_path / "budgets.toml") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_settings_name_the_file_and_without_one_no_case_has_a_budget(tmp_path):
    assert read_budgets(read_settings(tmp_path).budgets)(Case.parse(FULL)) is None
    (tmp_path / "pyproject.toml").write_text("[tool.peft_regress]\nbudgets = 'mine.toml'\n")
    file = read_settings(tmp_path).budgets
    with pytest.raises(InputError, match=r"mine.toml: cannot be read .*check `budgets` in"):
        read_budgets(file)
    (tmp_path / "mine.toml").write_text(TWO_GROUPS)
    assert read_budgets(file)(Case.parse(FULL)) == Budget(peak="256 MiB", of=FULL, peak_of=0.9)


HIGHEST = 1.1
"""A limit is at most so many times what is stored."""
NEAREST, FARTHEST = 0.05, 0.08
"""So far a limit on the accuracy lies below what is stored."""


@pytest.fixture(scope="module")
def own():
    return read_budgets(ROOT / "benchmarks" / "budgets.toml")


@pytest.fixture(scope="module")
def comparison(own):
    """The record that judges each case now, judged by the budgets of the file."""
    stored, observed = read_references(ROOT / "baselines"), {}
    for case in (case for name in ("default", "extended", "edge") for case in matrix_cases(name)):
        bare = msgspec.structs.replace(stored[case.id].record, budget=UNSET)
        record = with_budget(bare, own)
        observed[case.id] = dataclasses.replace(stored[case.id], record=record)
    return judge({}, observed)


def test_every_case_that_works_has_a_budget_on_its_costs(own, comparison):
    for name, one in comparison.observed.items():
        if one.record.status != "ok":
            continue
        budget = own(one.record.case)
        given = msgspec.to_builtins(budget).keys()
        if name.startswith("edge"):
            wanted = {"edge_train", "ship"}
        else:
            suffix = "" if "/full/" in name else "_of"
            wanted = {f"{part}{suffix}" for part in ("peak", "update", "ship")}
        assert given >= wanted, name
    assert all("score" in msgspec.to_builtins(own(case)) for case in matrix_cases())


def test_every_limit_is_kept_and_stands_close_to_what_is_stored(comparison):
    for case in comparison.cases:
        assert case.verdict == "new", case.reasons
        for use in case.budgets:
            assert use.value is not None is not use.limit, (case.id, use)
            is_close = (
                NEAREST <= use.value - use.limit <= FARTHEST
                if use.is_least
                else use.limit <= use.value * HIGHEST
            )
            assert is_close, f"{case.id}: {use.name} is {use.value:.4g}, its limit {use.limit:.4g}"


def test_accuracies_differ_less_between_processors_than_a_limit_is_away(own):
    found = {}
    for entry in read_entries_of(baseline_files(ROOT / "baselines")):
        for name, record in entry.run.cases.items():
            if "accuracy" in record.metrics and entry.run.accepted.role == "baseline":
                by_cpu = found.setdefault((name, record.definition), {})
                value = record.metrics["accuracy"].value
                by_cpu.setdefault(entry.run.machine.cpu, []).append(value)
    spreads = [
        max(abs(a - b) for a, b in itertools.product(*values))
        for by_cpu in found.values()
        for values in itertools.combinations(by_cpu.values(), 2)
    ]
    assert len(spreads) > 200
    assert f"{max(spreads) * 100:.1f} points" in (ROOT / "benchmarks" / "budgets.toml").read_text()
    assert max(spreads) < NEAREST
