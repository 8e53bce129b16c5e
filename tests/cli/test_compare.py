"""`peft-regress compare`: by a run, an entry or the storage; shards, and their union."""

import functools
import json
import os
import re
import shlex
import shutil

import msgspec
import pytest
from builders import (
    ENVIRONMENT,
    FULL,
    GALORE,
    LEDGER,
    LORA,
    MACHINE,
    VALUES,
    full_disk,
    keep_weights,
    make_record,
    make_run,
    read_runs,
    split_by,
    write_entry,
    write_run,
    write_shards,
)

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.invariants import KNOWN
from peft_regress.project.budgets import Bound
from peft_regress.project.devices import process_bytes
from peft_regress.runs import schema
from peft_regress.runs.journal import Header, JournalWriter, KeptRecord

CASES = matrix_cases("default")
IDS = [case.id for case in CASES]
MORE = {**VALUES, "forward_flops": 4_000_000_000}


NARROWED = ("baselines", "run.json", "--matrix", "own", "--stored-only")
"""A run of some cases of a project, judged by what is stored of them."""


@pytest.fixture
def run(project):
    """Call `compare`."""
    return lambda *words: project.run("compare", *words)


@pytest.fixture
def storage(project):
    project.store(1, *map(make_record, IDS))
    return project.folder / "baselines"


@pytest.mark.parametrize("side", ["new", "old"])
def test_the_journal_of_an_interrupted_run_is_a_partial_run(project, run, snapshot, side):
    """Of another environment, a cost trial and an older record of a case nothing counts."""
    here = Header(environment=ENVIRONMENT, machine=MACHINE, metrics_known=sorted(KNOWN))
    before = msgspec.structs.replace(here, environment={**ENVIRONMENT, "peft": "0.1"})
    writer = JournalWriter(project.folder / "part.json.journal")
    writer.add(before, KeptRecord(record=make_record(GALORE)))
    writer.add(here, KeptRecord(record=make_record(LORA, MORE)))
    writer.add(here, KeptRecord(record=make_record(LORA)))
    writer.add(here, KeptRecord(record=make_record(FULL), trains=False))
    writer.close()
    project.write({"whole.json": [make_record(LORA, MORE), make_record(FULL)]})
    sides = ("whole.json", "part.json.journal")
    assert run(*(sides if side == "new" else sides[::-1])) == snapshot


def test_a_journal_without_a_training_is_no_run(project, run):
    project.write({"empty.json.journal": ""})
    code, _, err = run("empty.json.journal", "empty.json.journal")
    assert (code, "has no record of a training" in err) == (2, True)


@pytest.fixture
def counts(run):
    """Judge the shards by the storage; return the exit code and the number of each verdict."""

    def call(*arguments):
        code, out, _ = run("baselines", "shards", "--format", "json", *arguments)
        found = json.loads(out)
        assert code == found["exit_code"]
        return code, found["counts"]

    return call


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({}, (0, {"unchanged": 102})),
        ({"lost": [LORA]}, (3, {"missing": 1, "unchanged": 101})),
        ({"skipped": [2]}, (3, {"missing": 26, "unchanged": 76})),
    ],
    ids=["all", "a case is lost", "a shard is lost"],
)
def test_shards_are_judged_by_the_storage_as_one_run(project, counts, storage, made, expected):
    write_shards(project.folder / "shards", **made)
    assert counts() == expected


def test_a_case_that_only_the_matrix_knows_is_missing_too(project, counts):
    """Neither the storage nor a shard holds it: `peft-regress list` does."""
    project.store(1, *(make_record(name) for name in IDS if name != LORA))
    write_shards(project.folder / "shards", cases=[case for case in CASES if case.id != LORA])
    assert counts() == (3, {"missing": 1, "unchanged": 101})


def test_cases_of_other_matrices_are_not_expected_unless_asked_for(project, run, counts, storage):
    extended = [make_record(case.id) for case in matrix_cases("extended")]
    project.store(2, *extended)
    write_shards(project.folder / "shards")
    project.write({"extended.json": extended})
    assert run("baselines", "shards").code == 0
    assert run("baselines", "extended.json", "--matrix", "extended").code == 0
    code, out, _ = run("baselines", "extended.json")
    assert (code, "102 missing" in out) == (3, True)
    # A stored case of no matrix is expected, too.
    project.store(3, make_record("own/method/network"))
    assert counts() == (3, {"missing": 1, "unchanged": 102})


def test_changes_that_add_up_over_entries_are_drift(project, run, storage):
    newest = [make_record(name, {**VALUES, "peak_bytes": 120_108_000}) for name in IDS]
    project.store(2, *newest, date="2026-01-02T00:00:00+00:00")
    write_shards(project.folder / "shards", metrics={**VALUES, "peak_bytes": 120_216_000})
    code, out, _ = run("baselines", "shards")
    assert (code, "drift since 0001_peft-0.18.1" in out) == (1, True)
    # An entry that is named judges alone.
    assert run("0002", "shards").code == 0


def test_a_judge_imports_no_case_of_the_project(project, run, storage):
    """The code of a pull request could end its process with exit code 0."""
    own = make_record("own/method/network")
    project.store(2, own)
    table = '[tool.peft_regress]\ncases = ["gates:GATES"]\n'
    code = "raise SystemExit(0)"
    project.write({"gates.py": code, "pyproject.toml": table, "run.json": [own]})
    assert run("baselines", "run.json", "--stored-only").code == 0
    assert run("baselines", "run.json").code == 2
    # Built-in cases are of another matrix; named, they are expected.
    assert run("baselines", "run.json", "--stored-only", "--matrix", "default").code == 3


OWN = [make_record("own/a/network"), make_record("own/b/network")]


def selected(project, *narrowed_by, lost=("own/b/network",)):
    """Write a run of the first of two cases."""
    selection = schema.Selection(complete=False, narrowed_by=[*narrowed_by], not_selected=[*lost])
    project.write({"run.json": make_run(OWN[0], selection=selection)})


def test_only_the_cases_asked_for_are_expected(project, run, storage):
    project.store(2, *OWN)
    selected(project, "x")
    assert run(*NARROWED).code == 3
    code, out, _ = run(*NARROWED, "--cases", "own/a/*")
    assert (code, "partial" in out) == (0, False)
    assert run(*NARROWED, "--cases", "own/b/*").code == 3
    # Neither side holds it, but it was left out.
    assert run("run.json", "run.json", "--cases", "own/b/*").code == 3
    # It was interrupted, and nobody narrowed it.
    selected(project, lost=())
    assert run(*NARROWED, "--cases", "own/a/*").code == 3


def test_a_case_that_was_retired_since_is_missing_from_no_run(project, run, storage):
    project.store(2, OWN[0])
    selected(project)
    assert run(*NARROWED).code == 0
    selected(project, "-k a")
    assert run(*NARROWED).code == 3


WRITES = [(os, "mkdir"), (os, "fsync"), (os, "replace"), (shutil, "copyfile")]

NO_ENTRY = "is no file and no entry of baselines. Entries: 0001_peft-0.18.1."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("baselines", "run.json", "--matrix", "none-such"), "default"),
        (("0001", "run.json", "--cases", f"{LORA}x"), f"pattern '{LORA}x'. Did you mean '{LORA}'?"),
        (("0001", "baselines"), "baselines: is a baseline storage. Name a run file or one entry"),
        (("0009", "0001"), NO_ENTRY),
        (("0001", "no.json"), NO_ENTRY),
        (("x" * 300, "0001"), NO_ENTRY),
        (("baselines", "shards", "--save", "new.json"), "shard-1.json"),
        (("baselines", "run.json", "--save", "shards/shard-2.json/new.json"), "cannot be written"),
    ],
)
def test_what_cannot_be_compared_or_saved_is_exit_2(project, run, storage, arguments, message):
    write_shards(project.folder / "shards")
    project.write({"run.json": [make_record()], "shards/shard-1.json": "{"})
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not (project.folder / "new.json").exists()


def test_the_union_is_one_run_file_with_the_adapters_and_can_be_accepted(project, run, storage):
    shards = write_shards(project.folder / "shards", metrics=MORE)
    lora, galore = "shift/lora-r1/resnet18", "unseen/galore-r1/mobilenet_v2"
    keep_weights(shards / "shard-1.json", make_record(lora), b"1")
    keep_weights(shards / "shard-2.json", make_record(galore), b"2")
    code, out, _ = run("baselines", "shards", "--save", "out/run.json")
    assert code == 1  # also when red
    assert "peft-regress accept out/run.json" in out
    union = project.saved("out/run.json")
    assert list(union.cases) == sorted(IDS)
    assert union.selection == schema.Selection(complete=True)
    assert union.machine.digest == schema.MIXED_MACHINES
    kept = {path.name for path in (project.folder / "out" / "run.adapters").iterdir()}
    assert kept == {lora.replace("/", "--"), galore.replace("/", "--")}
    assert project.run("accept", "out/run.json", "--reason", "why").code == 0
    entry = read_runs(storage)[-1].run.accepted
    assert entry.adapters.keys() == {lora, galore}
    assert {path.name for path in (storage / "adapters").iterdir()} == {
        digest.removeprefix("sha256:") for digest in entry.adapters.values()
    }
    assert run("baselines", "out/run.json").code == 0


def test_a_full_disk_keeps_the_saved_run_and_its_adapters(run, tmp_path, monkeypatch):
    """Every write fails in turn, until there is none left to fail."""
    for name in ("saved.json", "shards/shard.json"):
        write_run(tmp_path / name, make_run(make_record(LORA, {**VALUES, "aten_ops": len(name)})))
        keep_weights(tmp_path / name, make_record(LORA), name.encode())
    saved = [path for path in tmp_path.rglob("saved*/**/*") if path.is_file()]
    saved = {path: path.read_bytes() for path in [*saved, tmp_path / "saved.json"]}
    there = sorted(tmp_path.rglob("*"))
    writes = {name: getattr(module, name) for module, name in WRITES}
    failed = 0
    while True:
        left = [failed]

        def write(*arguments, name, left=left, **how):
            left[0] -= 1
            return full_disk() if left[0] < 0 else writes[name](*arguments, **how)

        with monkeypatch.context() as patch:
            for module, name in WRITES:
                patch.setattr(module, name, functools.partial(write, name=name))
            code, out, err = run("shards", "shards", "--save", "saved.json")
        if left[0] >= 0:
            break
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "cannot be written" in err
        assert sorted(tmp_path.rglob("*")) == there
        assert all(path.read_bytes() == content for path, content in saved.items())
        failed += 1
    assert code == 0
    assert failed > len(saved)
    assert sorted(tmp_path.rglob("*")) == there
    assert all(path.read_bytes() != content for path, content in saved.items())


def test_the_union_is_saved_even_if_it_is_incomplete_and_there_is_no_baseline(project, run):
    write_shards(project.folder / "shards", skipped=[4])
    old = project.folder / "run.adapters" / "old"
    old.mkdir(parents=True)
    assert run("baselines", "shards", "--save", "run.json").code == 2
    union = project.saved()
    assert (len(union.cases), union.selection.complete) == (77, False)
    assert len(union.selection.not_selected) == 25
    # Adapters of an earlier union do not stay.
    assert not old.parent.exists()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("run.json", "is the run that is read"),
        ("./absent/../run.json", "is the run that is read"),
        ("link.json", "is the run that is read"),
        ("shards/run.json", "would be a shard of it"),
        ("./shards/../shards/run.json", "would be a shard of it"),
        ("baselines/Linux-CPython-3.11-64bit/0001_run.json", "lies in the baseline storage"),
        ("baselines/new.json", "lies in the baseline storage"),
        ("linked/new.json", "lies in the baseline storage"),
    ],
)
def test_what_is_compared_or_stored_is_not_overwritten(run, storage, tmp_path, name, problem):
    new = "shards" if "shards" in name else "run.json"
    write_shards(tmp_path / "shards")
    write_run(tmp_path / "run.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "run.json")
    (tmp_path / "linked").symlink_to(storage)
    keep_weights(tmp_path / "run.json", make_record(LORA))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    code, out, err = run("baselines", new, "--save", name)
    assert (code, out) == (2, "")
    assert problem in err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before
    assert len(list((tmp_path / "run.adapters").iterdir())) == 1


@pytest.mark.parametrize("output", ["text", "markdown"])
@pytest.mark.parametrize(
    "named",
    [
        ("other/place", "new.json"),
        ("0001", "new.json", "--baselines", "other/place"),
        ("0001", "0002", "--baselines", "other/place"),
        ("other/place", "0001", "--baselines", "another"),
        ("old.json", "new.json"),
    ],
    ids=" ".join,
)
def test_every_command_to_type_works_when_typed(project, run, named, output):
    more = {"forward_flops": {"aten.convolution": 4 * 10**9}}
    wider = msgspec.structs.replace(
        LEDGER, modules={**LEDGER.modules, "conv2": schema.ModuleCosts(**more)}
    )
    old, new = (make_record(LORA, split_by(one), ledger=one) for one in (LEDGER, wider))
    other, another = project.folder / "other" / "place", project.folder / "another"
    write_entry(other, 1, old)
    write_entry(other, 2, new, role="history")
    write_entry(another, 1, new)
    project.write({"old.json": [old], "new.json": [new]})
    code, out, _ = run(*named, "--format", output)
    assert code == 1
    lines = out.replace("\\\n", "").splitlines()
    typable = [line for line in lines if re.match(r" *peft-regress \w", line)]
    commands = [shlex.split(line) for line in typable if not line.endswith(" --retire ID")]
    assert {words[1] for words in commands} >= {"explain", "accept"}
    for _, *words in commands:
        code, _, err = project.run(*words)
        assert code == (1 if words[0] == "compare" else 0), words
        assert "error" not in err
    stored = project.folder / "baselines" if named[0] == "old.json" else other
    assert list(stored.glob("*/*_peft-0.18.1.json"))


def test_what_was_chosen_is_typed_again(project, run, storage):
    project.write({"old.json": [make_record(LORA)], "new.json": [make_record(LORA, MORE)]})
    arguments = ("baselines", "new.json", "--matrix", "extended", "--strict")
    out = run(*arguments, "--format", "markdown").out
    assert f"\npeft-regress compare {' '.join(arguments)}\n" in out
    assert " --regress-matrix extended --regress-strict\n" in out
    out = run("old.json", "new.json", "--format", "markdown").out
    assert f"pytest benchmarks --regress-cases {LORA}\n" in out


def test_strict_fails_improvements(project, run):
    same = make_record(GALORE)
    better = make_record(FULL, {**VALUES, "forward_flops": 1})
    project.write({"old.json": [make_record(FULL), same], "new.json": [better, same]})
    assert run("old.json", "new.json").code == 0
    code, out, _ = run("old.json", "new.json", "--strict")
    assert (code, "FAILED by strictness: 1 case better than the baseline" in out) == (1, True)


def test_json_has_over_budget_among_the_verdicts(project, run, snapshot):
    full = make_record(FULL, {"accuracy": [0.9] * 3, "peak_bytes": 200})
    cheap = {"accuracy": [0.8] * 3, "peak_bytes": 100}
    over = make_record(LORA, {**cheap, "peak_bytes": 300}, budget=schema.Budget(peak=250))
    project.write({"old.json": [make_record(LORA, cheap), full], "new.json": [over, full]})
    assert run("old.json", "new.json", "--format", "json") == snapshot
    assert run("new.json", "new.json").code == 1


def test_the_devices_of_the_settings_judge_too(project, run):
    memory = process_bytes(150, "peft")
    given = {"title": "T", "memory": f"{memory} B", "reserve": "0 B", "compute": "c", "source": "s"}
    board = "[tiny]\n" + "".join(f'{name} = "{text}"\n' for name, text in given.items())
    bounds = {"peak_bytes": Bound(bound=5.0, reason="any")}
    project.write(
        {
            "pyproject.toml": '[tool.peft_regress]\ndevices = "boards.toml"\n',
            "boards.toml": board,
            "old.json": [make_record(LORA, {"peak_bytes": 100}, bounds=bounds)],
            "new.json": [make_record(LORA, {"peak_bytes": 200}, bounds=bounds)],
        }
    )
    code, out, _ = run("old.json", "new.json")
    assert code == 1
    assert "fits tiny: 200 B (limit 150 B, missed by 50 B, 33.3 %)" in out
    project.write({"boards.toml": f"{board}ram = 1\n"})
    code, _, err = run("old.json", "new.json")
    assert (code, "boards.toml: tiny 'ram'" in err) == (2, True)


DORA = "shift/dora-r1/resnet18"


def test_cases_judges_and_shows_some_cases_of_a_run_and_counts_the_others(project, run):
    """LoRA at rank 4 costs more in the newer run."""
    newer = [make_record(name, MORE if name == LORA else None) for name in IDS]
    project.write({"old.json": [*map(make_record, IDS)], "new.json": newer})
    one_worse, glob = ("old.json", "new.json"), "*/lora-*/resnet18"
    code, out, _ = run(*one_worse, "--cases", glob)
    assert code == 1
    assert out.endswith(f"REGRESSED (1 regressed, 7 unchanged) in {glob}; not judged: 94 cases\n")
    # What nobody sees must not be accepted.
    assert "peft-regress accept" in run(*one_worse).out
    assert "accept" not in out
    out = run(*one_worse, "--cases", glob, "--format", "markdown").out
    assert f"peft-regress compare old.json new.json --cases '{glob}'\n" in out
    code, out, _ = run(*one_worse, "--cases", DORA)
    assert (code, LORA in out) == (0, False)
    assert out.endswith(f"no regression (1 unchanged) in {DORA}; not judged: 101 cases\n")
    code, out, _ = run(*one_worse, "--cases", DORA, "--format", "json")
    assert (code, [case["id"] for case in json.loads(out)["cases"]]) == (0, [DORA])
