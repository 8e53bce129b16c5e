"""The baseline storage: entries, accepted one by one, which pytest-benchmark reads too."""

from pathlib import Path

import msgspec
import pytest
from builders import (
    BOTH,
    DATE,
    FULL,
    GALORE,
    LORA,
    accept,
    make_document,
    make_record,
    make_run,
    read_runs,
    rich_run,
    shard,
    write_entry,
    write_run,
)

from peft_regress.baselines.accept import accept_run
from peft_regress.baselines.current import read_contents
from peft_regress.baselines.references import read_references
from peft_regress.baselines.storage import baseline_files
from peft_regress.cases import matching_ids
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.errors import InputError, RunFileError, UnknownNameError
from peft_regress.runs.ledger_files import ledger_file
from peft_regress.runs.run_file import read_run_file, write_run_file
from peft_regress.runs.schema import Acceptance, Failure, Ledger

ROOT = Path(__file__).parents[2]
LINUX = "Linux-CPython-3.11-64bit"
HEAD = "shift/head/resnet18"


def store(root, run=None, **how):
    return accept(write_run(root.parent / "run.json", run), root=root, **how)


def test_accept_stores_the_run_under_machine_number_and_peft_and_adds_nothing_else(tmp_path):
    root = tmp_path / "b"
    stored = store(root, rich_run(), reason="peft 0.18")
    assert stored == root / LINUX / "0001_peft-0.18.1.json"
    run = read_run_file(stored).run
    entry = f"{LINUX}/0001_peft-0.18.1"
    assert run.accepted == Acceptance(reason="peft 0.18", date=DATE, role="baseline", entry=entry)
    assert msgspec.to_builtins(run.accepted).keys() == {"reason", "date", "role", "entry"}
    assert (run.cases, run.selection) == (rich_run().cases, rich_run().selection)
    source = tmp_path / "run.json"
    assert source.read_bytes() == write_run(tmp_path / "again.json", rich_run()).read_bytes()
    ledgers = {
        ledger_file(root / "ledgers", record.ledger)
        for record in read_run_file(stored, ledgers=False).run
        if record.ledger != Ledger()
    }
    assert len(ledgers) == 2
    files = {path for path in root.rglob("*") if path.is_file()}
    derived = {stored.with_name("current.txt"), root / "newest"}
    assert files - derived - {root / ".lock"} == {stored, *ledgers}


FAILED = make_record(FULL, status="error", error=Failure(type="E", message="m"))
WAS = Acceptance(reason="theirs", date=DATE, role="baseline", entry="x/0001_y")


@pytest.mark.parametrize(
    ("was", "typed", "expected"),
    [
        ({}, {}, ("baseline", "theirs", [])),
        ({"retired": [GALORE, "a/b/c"]}, {}, ("baseline", "theirs", [GALORE])),
        ({"retired": [GALORE]}, {"retire": ["*/head/*"]}, ("baseline", "theirs", [HEAD, GALORE])),
        ({"retired": [GALORE]}, {"history": True, "reason": "r"}, ("history", "r", [])),
        ({"role": "history"}, {"reason": "r"}, ("history", "r", [])),
        ({"role": "history"}, {"history": False, "allow_errors": "*"}, ("baseline", "theirs", [])),
    ],
)
def test_an_entry_keeps_its_reason_role_and_retired_cases(tmp_path, was, typed, expected):
    """A retired case that this storage does not expect is no news, and what judged judges."""
    root = tmp_path / "b"
    write_entry(root, 1, *map(make_record, (LORA, FULL, GALORE, HEAD)))
    theirs = msgspec.structs.replace(WAS, **was)
    run = make_run(make_record(LORA), FAILED, accepted=theirs)
    for _ in range(2):
        done = accept_run(write_run(tmp_path / "theirs.json", run), root=root, date=DATE, **typed)
    assert not done.is_new, "typed twice"
    found = done.run.accepted
    assert (found.role, found.reason, found.retired) == expected


def test_an_error_of_an_entry_for_history_is_allowed_by_name_alone(tmp_path):
    run = make_run(FAILED, accepted=msgspec.structs.replace(WAS, role="history"))
    source = write_run(tmp_path / "theirs.json", run)
    with pytest.raises(InputError, match="--allow-errors"):
        accept_run(source, root=tmp_path / "b", date=DATE, history=False)


def test_numbers_go_on_from_the_highest_of_any_machine(tmp_path):
    write_entry(tmp_path / "b", 7, folder="Windows-CPython-3.11-64bit")
    write_entry(tmp_path / "b", 12_345)
    assert store(tmp_path / "b").name.startswith("12346_")
    numbers = [path.name[:5] for path in baseline_files(tmp_path / "b")]
    assert numbers == ["0007_", "12345", "12346"]


@pytest.mark.parametrize(
    ("run", "how", "message"),
    [
        (None, {"reason": None}, "--reason"),
        (None, {"reason": ""}, "--reason"),
        (None, {"reason": "\n\t"}, "--reason"),
        (msgspec.structs.replace(make_run(), cases={}), {}, "holds no case"),
        (None, {"retire": [LORA]}, f"{LORA} cannot be retired by a run that has it"),
        (None, {"retire": [FULL], "history": True}, "role 'history' judges no case"),
    ],
)
def test_what_is_no_entry_is_refused_and_nothing_stored(tmp_path, run, how, message):
    entry = write_entry(tmp_path / "b", 1, make_record(LORA), make_record(FULL))
    with pytest.raises(InputError, match=message):
        store(tmp_path / "b", run, **how)
    assert baseline_files(tmp_path / "b") == [entry]


def test_accept_of_shards_keeps_every_timed_entry_and_needs_none(tmp_path):
    write_run(tmp_path / "s" / "1.json", shard(1, make_record(LORA)))
    write_run_file(tmp_path / "s" / "2.json", shard(2, make_record(FULL)), {})
    stored = read_run_file(accept(tmp_path / "s", root=tmp_path / "b"))
    assert stored.run.cases.keys() == BOTH
    assert [entry["param"] for entry in stored.document["benchmarks"]] == [LORA]
    assert read_run_file(accept(tmp_path / "s" / "2.json", root=tmp_path / "b")).run.cases


@pytest.mark.parametrize(
    ("info", "version", "entry"),
    [
        ({"system": "../..", "python_version": "3.12.1"}, "1", "Unknown-CPython-3.12-64bit/peft-1"),
        ({"system": "a b/c", "machine": "armv7l"}, "1", "Unknown-CPython-0.0-32bit/peft-1"),
        (
            {"system": "Linux", "python_implementation": "x" * 300}, "main",
            "Linux-Unknown-0.0-64bit/peft-main",
        ),
        (
            {"system": ".git", "python_version": "3.1\n"}, "1!2.0+cpu",
            "Unknown-CPython-Unknown-64bit/peft-1-2.0+cpu",
        ),
        ({"node": "workstation-7"}, "1", "Unknown-CPython-0.0-64bit/peft-1"),
    ],
)  # fmt: skip
def test_a_strange_machine_or_version_stays_inside_the_storage_and_unnamed(
    tmp_path, info, version, entry
):
    source, root = tmp_path / "run.json", tmp_path / "b"
    run = make_run(environment={"peft": version})
    write_run_file(source, run, {**make_document(run), "machine_info": info})
    stored = accept(source, root=root)
    assert stored == root / f"{entry.replace('/', '/0001_')}.json"
    assert baseline_files(root) == [stored]
    assert "workstation-7" not in stored.read_text()


def test_only_entries_are_taken_for_entries(tmp_path):
    entry = write_entry(tmp_path, 1)
    others = ("sources/manifest", "adapters/lora.safetensors", "Linux/.0002_x.json.abc", ".lock")
    others += ("Linux/0002_x.json~", "Linux/deep/0002_x.json", ".ipynb_checkpoints/0001_x.json")
    for other in (*others, "0001_top.json"):
        path = tmp_path / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no run")
    assert [stored.path for stored in read_runs(tmp_path)] == [entry]


@pytest.mark.parametrize("name", ["notes.json", "001_short.json", "0001.json", "peft-0.22.json"])
def test_a_json_file_that_is_no_entry_is_refused(tmp_path, name):
    """It may be the newest baseline under another name; an older one must not judge instead."""
    write_entry(tmp_path, 1, folder="Linux").with_name(name).write_text("no run")
    with pytest.raises(RunFileError, match="is no entry"):
        read_runs(tmp_path)


def test_globs_match_the_expected_cases(tmp_path):
    write_entry(tmp_path, 1, *map(make_record, (LORA, FULL, GALORE)))
    write_entry(tmp_path, 2, make_record(), retired=[GALORE])
    write_entry(tmp_path, 3, make_record("a/b/c"), role="history")
    judges = read_contents(tmp_path).judges
    assert matching_ids(judges, FULL) == [FULL]
    assert matching_ids(judges, "shift/*") == [FULL, LORA]
    for pattern in ("", "full", "SHIFT/*", GALORE, "a/b/c"):
        with pytest.raises(UnknownNameError, match=f"unknown case pattern .*Known: .*{FULL}"):
            matching_ids(judges, pattern)


def test_the_entries_that_judge_the_default_matrix_hold_times_of_all_its_cases(own_storage):
    references = read_references(ROOT / "baselines")
    cases = {case.id for case in matrix_cases("default")}
    judges = {references[case].run_name for case in cases}
    timed = {
        entry["extra_info"]["peft_regress"]["case_id"]
        for file in own_storage
        if file.path.stem in judges
        for entry in file.document["benchmarks"]
    }
    assert cases <= timed
