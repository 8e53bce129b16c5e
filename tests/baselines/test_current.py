"""`current.txt` says what judges each case now; it is what the entries say, or an error."""

import functools
import re
import shutil
from pathlib import Path

import msgspec
import pytest
from builders import (
    FULL,
    LORA,
    MACHINE,
    OTHER_MACHINE,
    VALUES,
    accept,
    curve,
    keep_weights,
    make_document,
    make_metric,
    make_record,
    make_run,
    read_runs,
    referee,
    repeating,
    store,
    trained,
    write_run,
)
from git_shell import run_in

from peft_regress.baselines import current, storage
from peft_regress.baselines.accept import renew_current
from peft_regress.baselines.current import read_contents
from peft_regress.baselines.history import read_entries
from peft_regress.baselines.named_runs import load_references
from peft_regress.baselines.references import read_references
from peft_regress.baselines.storage import baseline_files, newest_file
from peft_regress.errors import InputError
from peft_regress.gate.verdicts import observations_of
from peft_regress.metrics import Metric
from peft_regress.project.budgets import Bound, Budget
from peft_regress.runs import schema
from peft_regress.runs.run_file import write_run_file

REPOSITORY = Path(__file__).parents[2]
LINUX = "Linux-CPython-3.11-64bit"
HEAD = "shift/head/resnet18"


def lines_of(root, folder=LINUX):
    """Return the lines about cases."""
    text = (root / folder / "current.txt").read_text()
    return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.fixture
def root(tmp_path):
    """A storage of two cases."""
    root = tmp_path / "baselines"
    store(root, make_record(LORA), make_record(FULL))
    return root


def test_it_has_what_judges_a_line_each(tmp_path, snapshot):
    own = {"own": Metric(value=0.1 + 0.2, unit="ratio", direction="lower", kind="score")}
    shown = Metric(value=1, unit="ratio", direction="none", kind="info")
    names = ("trainable_params", "peak_bytes", "first_losses", "accuracy", "step_seconds")
    lora = make_record(
        LORA,
        {**own, "shown": shown, **{name: VALUES[name] for name in reversed(names)}},
        invariants={"merge_equals_unmerged": False, "identity_at_init": True, "unmerge": None},
        budget=Budget(peak=2**27, score=0.5),
    )
    full = make_record(FULL, status="error", error=schema.Failure(type="KeyError", message="a\nb"))
    store(tmp_path / "b", lora, full)
    lines = [re.sub(r"\b[0-9a-f]{12}$", "DIGEST", line) for line in lines_of(tmp_path / "b")]
    assert lines == snapshot


FIELDS = {
    "case": "each line begins with its id",
    "ledger": "it explains costs, which have lines",
    "repeats": "it names the run whose curve has a line",
    "definition": ("sha256:a", "sha256:b"),
    "status": ("error", "unsupported"),
    "error": [schema.Failure(type="E", message="m", after_steps=steps) for steps in (1, 2)],
    "metrics": [{"loss": make_metric("loss", samples)} for samples in ([2.0, 1.0], [1.0, 2.0])],
    "invariants": [{"a": False, "b": answer} for answer in (True, None)],
    "settings": ({"steps": "4"}, {"steps": "8"}),
    "invariant_notes": ({"a": "in conv1"}, {"a": "in conv2"}),
    "defects": [{"a": schema.Defect(size=size)} for size in (1.0, 2.0)],
    "numerics": ("usual", "head"),
    "inputs": [schema.Inputs(optimizer=[{"lr": rate}]) for rate in (0.1, 0.2)],
    "trained": ({"a": [2, 3]}, {"b": [2, 3]}),
    "profiled_on": ("fake tensors", "real tensors"),
    "batch": (32, 16),
    "budget": (Budget(peak=2), Budget(ship=2)),
    "bounds": [{"loss": Bound(bound=0.5, reason=reason)} for reason in "ab"],
    "own_code": ("sha256:a", "sha256:b"),
    "curve": (curve(), curve(3)),
    "nearby_losses": ([[1.0]], [[2.0]]),
    "rates": ([[0.1]], [[0.1, 0.2]]),
    "referee": (referee(), referee(3)),
    "test_items": (300, 301),
    "machine": (MACHINE, OTHER_MACHINE),
    "script": [schema.ScriptFacts(optimizers=[name], autocast="", batches={}) for name in "ab"],
}
"""Two values of each field of a record, or why the field judges nothing."""


@pytest.mark.parametrize("field", schema.Record.__struct_fields__)
def test_every_field_of_a_record_has_a_line_or_judges_nothing(field):
    if isinstance(FIELDS[field], str):
        return
    values = {name: pair for name, pair in FIELDS.items() if not isinstance(pair, str)}
    record = make_record(**{name: pair[0] for name, pair in values.items()})
    other = msgspec.structs.replace(record, **{field: values[field][1]})
    judging = [observations_of(make_run(one), "r")[LORA] for one in (record, other)]
    was, now = map(list, map(current._facts, judging))
    assert was != now


def test_each_machine_has_the_cases_that_its_entries_judge(root):
    windows = make_document(make_run())
    windows["machine_info"]["system"] = "Windows"
    write_run_file(root.parent / "windows.json", make_run(), windows)
    accept(root.parent / "windows.json", root=root)
    assert {line.split()[0] for line in lines_of(root)} == {FULL}
    assert {line.split()[0] for line in lines_of(root, LINUX.replace("Linux", "Windows"))} == {LORA}
    load_references(root, None)


def edited(path):
    path.write_text(path.read_text().replace(" aten_ops 900", " aten_ops 899"))


@pytest.mark.parametrize("change", [edited, Path.unlink, lambda path: path.write_bytes(b"\xff")])
@pytest.mark.parametrize("mend", ["renew", "accept"])
def test_one_that_is_not_what_the_entries_say_is_refused_until_it_is_written_anew(
    root, change, mend
):
    path = root / LINUX / "current.txt"
    before = path.read_bytes()
    change(path)
    for use in (
        lambda: load_references(root, None),
        lambda: load_references(root.parent, str(root)),
        lambda: read_entries(root, []),
    ):
        with pytest.raises(InputError, match=r"current.txt: .*accept --renew --baselines ") as told:
            use()
        assert str(told.value).isprintable()
    if mend == "renew":
        assert renew_current(root) == [path]
        assert renew_current(root) == []
    else:
        store(root, make_record(LORA), make_record(FULL))
    assert path.read_bytes() == before
    load_references(root, None)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("change", [edited, Path.unlink])
def test_while_an_accept_has_not_ended_it_is_as_before_the_entry_or_as_after(root, first, change):
    """The name of the newest entry comes last."""
    if first:
        shutil.rmtree(root)
    path, newest = root / LINUX / "current.txt", newest_file(root)
    kept = {one: one.read_bytes() if one.exists() else b"" for one in (path, newest)}
    store(root, make_record(LORA, {"aten_ops": 900, "peak_bytes": 1}))
    for content in (path.read_bytes(), kept[path]):
        for one, before in ((newest, kept[newest]), (path, content)):
            one.write_bytes(before) if before else one.unlink(missing_ok=True)
        assert load_references(root, None)[LORA].record.value_of("peak_bytes") == 1
        if path.exists() and not (first and change is Path.unlink):
            change(path)
            with pytest.raises(InputError, match=r"current.txt: .*accept --renew"):
                load_references(root, None)
    assert renew_current(root)
    load_references(root, None)


@pytest.mark.parametrize("storage", ["baselines", "examples/baselines"])
def test_those_of_this_repository_are_current(storage):
    contents = read_contents(REPOSITORY / storage)
    assert len(lines_of(REPOSITORY / storage)) > 10 * len(contents.judges)


def test_the_commands_of_the_docs_join_two_branches_that_accepted(tmp_path):
    """One side confirms a case of before, and of the other a cost changed; each brings a case."""
    root = tmp_path / "repository" / "baselines"
    root.parent.mkdir()
    run = functools.partial(run_in, root.parent)
    store(root, trained(LORA), trained(FULL))
    run("git init -q; echo '**/baselines/.lock' > .gitignore; git add .; git commit -qm first")
    run("git switch -qc theirs")
    theirs = make_run(
        repeating(trained(LORA)),
        trained(FULL, {**VALUES, "peak_bytes": 100}),
        trained(HEAD),
        environment={"peft": "0.22.0", "python": "3.11.7", "torch": "2.13.0"},
    )
    keep_weights(write_run(tmp_path / "theirs.json", theirs), theirs.cases[HEAD])
    accept(tmp_path / "theirs.json", root=root)
    run("git add .; git commit -qm theirs; git switch -q main")
    store(root, trained("shift/lora-r8/resnet18"))
    run("git add .; git commit -qm mine")
    page = (REPOSITORY / "docs" / "usage.md").read_text()
    section = page.split("\n## Two branches accepted\n")[1].split("\n## ")[0]
    run("\n".join(re.findall(r"^\$ (.*)$", section.split("```console")[1], re.MULTILINE)))
    assert run("git status --porcelain") == ""
    assert run("git log --merges --format=%s").startswith("Merge branch 'theirs'")
    assert [path.stem[:4] for path in baseline_files(root)] == ["0001", "0002", "0003"]
    references = read_references(root)
    by = {name: one.run_name[:4] for name, one in references.items()}
    assert by == {LORA: "0001", "shift/lora-r8/resnet18": "0002", FULL: "0003", HEAD: "0003"}
    assert references[LORA].confirmed.environment["peft"] == "0.22.0"
    (adapter,) = (root / "adapters").glob("*/model.safetensors")
    newest = storage.acceptance_of(read_runs(root)[-1])
    assert newest.adapters == {HEAD: f"sha256:{adapter.parent.name}"}


def test_an_entry_that_confirms_is_accepted_once_and_from_its_storage_alone(root):
    other = root.with_name("other")
    store(other, trained(LORA))
    entry = store(other, repeating(trained(LORA)), reason="again")
    alone = Path(shutil.copy(entry, root.parent / "copied.json"))
    with pytest.raises(InputError, match=r"copied.json: .* the entry 0001_.*is not there"):
        accept(alone, root=root)
    with pytest.raises(InputError, match=r"Measure it with --regress-full"):
        accept(entry, root=root)
    store(root, trained(LORA))
    assert accept(entry, root=root) == accept(entry, root=root) == baseline_files(root)[-1]
    assert len(baseline_files(root)) == 3
