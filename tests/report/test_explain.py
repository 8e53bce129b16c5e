"""`peft-regress explain`: what is printed, and the command."""

import functools
import json
import re
from pathlib import Path

import pytest
from builders import FULL, LORA, make_record, make_run, observe, write_entry, write_run

from peft_regress.gate.attribution import changed_costs, explain_metric
from peft_regress.report import as_markdown, as_text, encode_explanation, explanation
from peft_regress.runs.ledger import pack
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Failure

OLD = make_record(
    LORA,
    {"forward_flops": 1_290, "peak_bytes": 500, "optimizer_flops": 9, "aten_ops": 3},
    ledger=pack(
        {
            "forward_flops": {
                ("conv1.base_layer", "aten.convolution"): 1_000,
                ("conv1.lora_A.default", "aten.convolution"): 200,
                ("conv2", "aten.convolution"): 80,
                ("fc", "aten.addmm"): 10,
            },
            "optimizer_flops": {("fc", "aten.mul"): 9},
            "peak_activation_bytes": {("conv1", "activation"): 500},
            "peak_bytes": {("conv1", "activation"): 500},
        },
        peak_phase={"peak_bytes": "backward"},
    ),
)
NEW = make_record(
    LORA,
    {"forward_flops": 2_296, "peak_bytes": 620, "optimizer_flops": 9, "aten_ops": 4},
    ledger=pack(
        {
            "forward_flops": {
                ("conv1.base_layer", "aten.convolution"): 1_000,
                ("conv1.lora_A.default", "aten.convolution"): 200,
                ("conv1.scale", "aten.convolution"): 1_000,
                ("conv3", "aten.convolution"): 86,
                ("fc", "aten.addmm"): 10,
            },
            "optimizer_flops": {("fc", "aten.mul"): 9},
            "peak_activation_bytes": {("conv1", "activation"): 620},
            "peak_bytes": {("conv1", "activation"): 600, ("", "temp"): 20},
        },
        peak_phase={"peak_bytes": "forward"},
    ),
)
BEFORE = observe(OLD, environment={"peft": "0.15.2", "torch": "2.13.0"}, run_name="old.json")
AFTER = observe(NEW, environment={"peft": "0.14.0", "torch": "2.13.0"}, run_name="new.json")
CHANGES = changed_costs(OLD, NEW)


@functools.cache
def stored(case):
    """Return a record of the newest entry of the default matrix."""
    root = Path(__file__).parents[2] / "baselines" / "Linux-CPython-3.11-64bit"
    return read_run_file(root / "0004_peft-0.21.2.json").run.cases[case]


def explained(old, new):
    """Return the explanation of all costs that differ between two records."""
    return as_text(explanation(observe(old), observe(new), changed_costs(old, new), top=10))


def lora_to_dora(architecture, *, top, only=None):
    """Return the explanation of what DoRA costs more than LoRA, by stored ledgers."""
    old, new = (stored(f"shift/{method}-r4/{architecture}") for method in ("lora", "dora"))
    changes = [one for one in changed_costs(old, new) if only is None or one.metric in only]
    return as_text(explanation(observe(old), observe(new), changes, top=top))


def test_a_report_has_the_environment_and_a_table_that_adds_up_for_each_metric(snapshot):
    document = explanation(BEFORE, AFTER, CHANGES, top=10)
    assert as_text(document) == snapshot(name="text")
    assert as_markdown(document) == snapshot(name="markdown")


def test_values_that_look_alike_when_rounded_are_printed_in_full():
    old, new = (
        make_record(LORA, {"total_params": 11_181_642 + more, "peak_bytes": 706_115_232 + more})
        for more in (0, 1)
    )
    text = explained(old, new)
    assert "total_params: 11,181,642 -> 11,181,643, +1, +8.9e-08\n" in text
    assert "peak_bytes: 706,115,232 -> 706,115,233, +1 bytes" in text


def test_what_stands_beyond_the_top_is_one_line_that_keeps_the_sum():
    lines = as_text(explanation(BEFORE, AFTER, CHANGES, top=1)).splitlines()
    table = lines[lines.index(next(line for line in lines if "by module" in line)) :]
    assert [line.split()[-3:] for line in table if "  2 more" in line] == [["80", "86", "+6"]]
    assert "conv3" not in "\n".join(table)


@pytest.mark.parametrize("top", [1, 2, 3, 100])
def test_what_is_printed_adds_up_to_the_last_line(top):
    texts = lora_to_dora("resnet18", top=top).split("\n\n")
    assert len(texts) > 20
    for text in texts:
        sums = [0, 0, 0]
        for line in text.splitlines():
            found = re.fullmatch(r"    (?! ).*? +([\d,]+) +([\d,]+) +([-+]?[\d,]+)", line)
            if not found:
                continue
            numbers = [int(number.replace(",", "")) for number in found.groups()]
            if line.startswith("    sum "):
                assert numbers == sums, line
                # A table more, of the same metric by operator, begins.
                sums = [0, 0, 0]
            else:
                sums = [a + b for a, b in zip(sums, numbers, strict=True)]
        assert sums == [0, 0, 0]


def test_rows_that_are_those_of_another_metric_are_not_printed_twice():
    text = lora_to_dora("resnet18", top=3)
    for metric, twin in (
        ("paper_forward_flops", "forward_flops"),
        ("optimizer_flops_b32", "optimizer_flops"),
        ("peak_param_bytes_b32", "peak_param_bytes"),
    ):
        block = next(part for part in text.split("\n\n") if part.startswith(f"{metric}:"))
        assert block.splitlines()[1:] == [f"  same rows as {twin}"]


def test_the_optimizer_is_split_by_module_and_by_operator():
    text = lora_to_dora("resnet18", top=2, only=["optimizer_flops"])
    by_module, by_operator = text.index("by module"), text.index("by operator")
    assert by_module < text.index(".lora_magnitude_vector.default (new)") < by_operator
    assert by_operator < text.index("aten.")


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [(0, 1, "costs 1 extra run"), (1, 0, "saves 1 run"), (0, 3, "costs 3 extra runs")],
)
def test_a_row_counts_the_runs_of_the_base_operator(before, after, note):
    def with_runs(count):
        rows = {("conv1.base_layer", "aten.mm"): 10, ("conv1.scale", "aten.mm"): 10 * count}
        ledger = pack({"forward_flops": rows}, peak_phase={})
        return make_record(LORA, {"forward_flops": 10 + 10 * count}, ledger=ledger)

    text = explained(with_runs(before), with_runs(after))
    assert f"{note} of conv1.base_layer's aten.mm" in text


def test_json_has_all_rows_and_their_sums(snapshot):
    encoded = encode_explanation(BEFORE, AFTER, CHANGES)
    assert json.loads(json.dumps(encoded, allow_nan=False)) == snapshot


def test_equal_costs_are_said_to_be_equal():
    text = as_text(explanation(BEFORE, BEFORE, (), top=10))
    assert "the same packages on both sides" in text
    assert "no cost differs" in text
    assert encode_explanation(BEFORE, BEFORE, ())["metrics"] == []


def test_a_metric_of_one_side_is_absent_on_the_other():
    rows = {"projection_flops": {("fc", "aten.linalg_svd"): 7}}
    new = make_record(LORA, {"projection_flops": 7}, ledger=pack(rows, peak_phase={}))
    old = make_record(LORA, {"aten_ops": 1}, ledger=OLD.ledger)
    text = explained(old, new)
    assert "projection_flops: absent -> 7 FLOP\n" in text
    assert "aten_ops: 1 -> absent\n" in text


def test_a_status_that_changed_is_told_with_the_error():
    error = Failure(type="KeyError", message="'conv1'")
    failed = observe(make_record(LORA, status="error", error=error))
    text = as_text(explanation(BEFORE, failed, changed_costs(OLD, failed.record), top=10))
    assert "status: ok -> error (KeyError: 'conv1')" in text
    assert "has no costs to compare" in text
    assert "no cost differs" not in text
    both = as_text(explanation(failed, failed, (), top=10))
    assert "status: error (KeyError: 'conv1') on both sides" in both
    decoded = encode_explanation(BEFORE, failed, ())
    assert decoded["new"]["error"] == {"type": "KeyError", "message": "'conv1'"}


def test_settings_and_invariants_that_are_false_are_told():
    notes = {"merge": "head: off by 0.3"}
    old, new = (
        observe(make_record(definition=rank, settings={"adapter r": rank}, **more))
        for rank, more in (
            ("4", {"invariants": {"merge": True}}),
            ("8", {"invariants": {"merge": False}, "invariant_notes": notes}),
        )
    )
    text = as_text(explanation(old, new, [], top=10))
    assert "definition changed: adapter r: 4 -> 8" in text
    assert "invariant merge: true -> false (head: off by 0.3)" in text
    encoded = encode_explanation(old, new, [])
    assert encoded["settings"] == [{"setting": "adapter r", "old": "4", "new": "8"}]
    (found,) = encoded["invariants"]
    assert found == {"invariant": "merge", "old": True, "new": False, "note": notes["merge"]}
    assert "invariant merge: false (head: off by 0.3)" in as_text(explanation(new, new, [], top=1))


def test_a_ledger_that_does_not_add_up_is_told_and_the_rest_is_a_row():
    wrong = make_record(LORA, {"forward_flops": 2_300}, ledger=NEW.ledger)
    changes = [explain_metric("forward_flops", OLD, wrong)]
    text = as_text(explanation(BEFORE, observe(wrong, run_name="new.json"), changes, top=10))
    assert "the ledger of new.json does not add up by module: +4 is left" in text
    assert re.search(r"not in the ledger +0 +4 +\+4\n", text)
    (metric,) = encode_explanation(BEFORE, observe(wrong), changes)["metrics"]
    (split,) = metric["breakdowns"]
    assert split["unattributed"] == {"old": 0, "new": 4}
    assert split["sum"] == metric["change"] == 1_010


def test_a_ledger_that_lacks_a_metric_is_told():
    earlier = make_record(LORA, {"forward_flops_b32": 5})
    empty = make_record(LORA, {"forward_flops_b32": 6})
    sides = observe(earlier, run_name="0001"), observe(empty, run_name="new.json")
    text = as_text(explanation(*sides, changed_costs(earlier, empty), top=10))
    assert "not split: the ledger of 0001 has no rows of this metric" in text
    assert "not split: the ledger of new.json has no rows of this metric" in text
    assert "by module" not in text


HOSTILE = ["\x1b[31mred", "a\nb", "<b>|`*", "x" * 10_000, "\u202e", ""]


@pytest.mark.parametrize("text", HOSTILE)
def test_strings_from_a_file_forge_nothing(text):
    rows = {"forward_flops": {(text, text): 5, (f"{text}.base_layer", text): 5}}
    phases = {"peak_bytes": text or "x"}
    new = make_record(
        LORA, {"forward_flops": 10, "peak_bytes": 3}, ledger=pack(rows, peak_phase=phases)
    )
    old = make_record(LORA, {"forward_flops": 0, "peak_bytes": 2}, ledger=new.ledger)
    sides = observe(old, run_name=text, environment={text: text}), observe(new, run_name=text)
    changes = changed_costs(old, new)
    printed = as_text(explanation(*sides, changes, top=10))
    assert all(line.isprintable() for line in printed.split("\n"))
    assert max(map(len, printed.splitlines())) < 400
    markdown = as_markdown(explanation(*sides, changes, top=10))
    assert "<" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row.replace("\\\\", ""))) for row in rows} <= {5, 6}
    json.dumps(encode_explanation(*sides, changes), allow_nan=False)


@pytest.fixture
def explain(command, tmp_path):
    """Call the command, with a storage of two entries, and return (exit code, stdout, stderr)."""
    root = tmp_path / "baselines"
    write_entry(root, 1, OLD, environment=BEFORE.environment)
    write_entry(root, 2, NEW, environment=AFTER.environment, title="peft-0.14.0")

    return lambda *arguments: command("explain", "--baselines", root, *arguments)


def test_explain_takes_run_files_folders_storages_and_entries(explain, tmp_path):
    old = write_run(tmp_path / "old.json", make_run(OLD, environment=BEFORE.environment))
    new = write_run(tmp_path / "shards" / "1.json", make_run(NEW, environment=AFTER.environment))
    tables = {
        out.partition("  environment:")[2]
        for first in (old, "0001", "0001_peft-0.18.1")
        for second in (new, new.parent, "0002", tmp_path / "baselines")
        for code, out, _ in [explain(first, second, LORA)]
        if code == 0
    }
    document = explanation(BEFORE, AFTER, CHANGES, top=10)
    assert tables == {as_text(document).partition("  environment:")[2] + "\n"}
    assert "2 more" in explain("0001", "0002", LORA, "--top", "1")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("0001", "0002", "shift/lora-r4/resnet19"), 3, f"There are: {LORA}."),
        (("0001", "0002", FULL), 3, f"0001 holds no case '{FULL}'; it holds 1"),
        (("0001", "0003", LORA), 3, "'0003' is no file and no entry of"),
        (("0001", "gone.json", LORA), 3, "Entries: 0001_peft-0.18.1, 0002_peft-0.14.0."),
        (("x" * 5000, "0002", LORA), 3, "is no file and no entry of"),
        (("0001", "0002", "resnet18"), 2, "'resnet18' is not a case id"),
        (("0001", "0002", "shift//resnet18"), 2, "is not a case id"),
        (("gone.json", "0002", ""), 2, "'' is not a case id"),
        (("0001", "0002", LORA, "--top", "0"), 2, "x>=1"),
        (("0001", "0002", LORA, "--format", "html"), 2, "'markdown'"),
        (("0001", "0002"), 2, "CASE"),
    ],
)
def test_explain_of_what_is_not_there_or_not_right_is_an_exit_code_and_a_message(
    explain, arguments, code, message
):
    found, out, err = explain(*arguments)
    assert (found, out) == (code, "")
    assert message in err
