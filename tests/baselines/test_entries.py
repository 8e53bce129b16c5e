"""The baseline storage: entries, accepted one by one, which pytest-benchmark reads too."""

from __future__ import annotations

import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from builders import (
    BOTH,
    FULL,
    LORA,
    UNSEEN_LORA,
    accept,
    full_disk,
    make_document,
    make_record,
    make_run,
    rich_run,
    shard,
    write_entry,
    write_run,
)

from peft_regress.baselines.storage import baseline_files, read_runs
from peft_regress.errors import InputError, RunFileError
from peft_regress.runs.ledger_files import ledger_file
from peft_regress.runs.run_file import read_run_file, write_run_file
from peft_regress.runs.schema import Acceptance, Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from peft_regress.runs.run_file import RunFile

DATE = "2026-01-01T00:00:00+00:00"


def test_accept_stores_the_run_under_machine_number_and_peft(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json", rich_run())
    stored = accept(source, root=tmp_path / "b", reason="peft 0.18", date=DATE)
    assert stored == tmp_path / "b" / "Linux-CPython-3.11-64bit" / "0001_peft-0.18.1.json"
    run = read_run_file(stored).run
    assert run.accepted == Acceptance(
        reason="peft 0.18",
        date=DATE,
        role="baseline",
        entry="Linux-CPython-3.11-64bit/0001_peft-0.18.1",
    )
    assert run.cases == rich_run().cases
    assert run.selection == rich_run().selection


def test_accept_does_not_change_the_run_file(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json")
    before = source.read_bytes()
    accept(source, root=tmp_path / "b", reason="r", date=DATE)
    assert source.read_bytes() == before


def test_accept_for_history_stores_that_role(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json")
    stored = accept(source, root=tmp_path, reason="r", date=DATE, history=True)
    accepted = read_run_file(stored).run.accepted
    assert accepted is not None
    assert accepted.role == "history"


def test_accept_records_what_it_retires(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, make_record(FULL))
    source = write_run(tmp_path / "run.json")
    stored = accept(source, root=tmp_path, reason="r", date=DATE, retire=["*/full/*"])
    accepted = read_run_file(stored).run.accepted
    assert accepted is not None
    assert accepted.retired == [FULL]


def test_an_entry_that_retires_nothing_has_no_key_for_it(tmp_path: Path) -> None:
    """Or the digest of every entry from before would change."""
    accepted = Acceptance(reason="r", date=DATE, role="baseline", entry="a/0001_x")
    assert msgspec.to_builtins(accepted).keys() == {"reason", "date", "role", "entry"}


def test_a_case_that_the_run_holds_is_not_retired(tmp_path: Path) -> None:
    source, entry = write_run(tmp_path / "run.json"), write_entry(tmp_path / "b", 1)
    with pytest.raises(InputError, match=f"{LORA} cannot be retired by a run that has it"):
        accept(source, root=tmp_path / "b", reason="r", date=DATE, retire=[LORA])
    assert baseline_files(tmp_path / "b") == [entry]


def test_an_entry_of_role_history_cannot_retire_a_case(tmp_path: Path) -> None:
    source, root = write_run(tmp_path / "run.json"), tmp_path / "b"
    entry = write_entry(root, 1, make_record(FULL))
    with pytest.raises(InputError, match="role 'history' judges no case"):
        accept(source, root=root, reason="r", date=DATE, history=True, retire=[FULL])
    assert baseline_files(root) == [entry]


def test_accepting_an_entry_again_makes_a_new_entry(tmp_path: Path) -> None:
    """As when an entry of role history shall gate after all."""
    source = write_entry(tmp_path, 1, role="history")
    before = source.read_bytes()
    stored = accept(source, root=tmp_path, reason="now it gates", date=DATE)
    assert stored.name == "0002_peft-0.18.1.json"
    accepted = read_run_file(stored).run.accepted
    assert accepted is not None
    assert (accepted.role, accepted.reason) == ("baseline", "now it gates")
    assert source.read_bytes() == before


def test_numbers_go_on_from_the_highest_of_any_machine(tmp_path: Path) -> None:
    write_entry(tmp_path, 7, folder="Windows-CPython-3.11-64bit")
    write_entry(tmp_path, 12_345)
    source = write_run(tmp_path / "run.json")
    stored = accept(source, root=tmp_path, reason="r", date=DATE)
    assert stored.name.startswith("12346_")
    assert [path.name[:5] for path in baseline_files(tmp_path)] == ["0007_", "12345", "12346"]


def test_accept_of_shards_keeps_every_timed_entry(tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "1.json", shard(1, make_record(LORA)))
    write_run(tmp_path / "s" / "2.json", shard(2, make_record(FULL)))
    stored = read_run_file(accept(tmp_path / "s", root=tmp_path / "b", reason="r", date=DATE))
    assert stored.run.cases.keys() == BOTH
    assert [entry["param"] for entry in stored.document["benchmarks"]] == [LORA, FULL]


@pytest.mark.parametrize("reason", ["", " ", "\n\t"])
def test_accept_without_a_reason_is_refused(tmp_path: Path, reason: str) -> None:
    source = write_run(tmp_path / "run.json")
    with pytest.raises(InputError, match="--reason"):
        accept(source, root=tmp_path / "b", reason=reason, date=DATE)
    assert not (tmp_path / "b").exists()


def test_accept_of_a_run_without_cases_is_refused(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json", msgspec.structs.replace(make_run(), cases={}))
    with pytest.raises(InputError, match="holds no case"):
        accept(source, root=tmp_path / "b", reason="r", date=DATE)


def test_accept_of_a_damaged_run_stores_nothing(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json")
    source.write_text(source.read_text().replace("3638000000", "1"))
    with pytest.raises(RunFileError):
        accept(source, root=tmp_path / "b", reason="r", date=DATE)
    assert not (tmp_path / "b").exists()


def test_accept_into_a_file_is_refused(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json")
    (tmp_path / "b").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        accept(source, root=tmp_path / "b", reason="r", date=DATE)


def test_accept_without_pytest_benchmarks_part_stores_a_file_that_reads(tmp_path: Path) -> None:
    source = tmp_path / "s" / "run.json"
    write_run_file(source, make_run(), {})
    for path in (source, source.parent):
        assert read_run_file(accept(path, root=tmp_path / "b", reason="r", date=DATE)).run.cases


@pytest.mark.parametrize(
    ("info", "folder"),
    [
        ({"system": "../..", "python_version": "3.12.1"}, "Unknown-CPython-3.12-64bit"),
        ({"system": "a b/c", "machine": "armv7l"}, "Unknown-CPython-0.0-32bit"),
        ({"system": "Linux", "python_implementation": "x" * 300}, "Linux-Unknown-0.0-64bit"),
        ({"system": ".git", "python_version": "3.1\n"}, "Unknown-CPython-Unknown-64bit"),
        ({}, "Unknown-CPython-0.0-64bit"),
    ],
)
def test_a_strange_machine_stays_inside_the_storage(
    tmp_path: Path, info: dict[str, str], folder: str
) -> None:
    source, root = tmp_path / "run.json", tmp_path / "b"
    write_run_file(source, make_run(), {**make_document(make_run()), "machine_info": info})
    stored = accept(source, root=root, reason="r", date=DATE)
    assert stored.parent == root / folder
    assert stored.resolve().is_relative_to(root.resolve())
    assert baseline_files(root) == [stored]


@pytest.mark.parametrize(
    ("version", "title"),
    [
        ("main", "run"),
        ("1!2.0+cpu", "peft-1-2.0+cpu"),
        ("1." + "9" * 100, "run"),
    ],
)
def test_a_strange_version_stays_inside_the_storage(
    tmp_path: Path, version: str, title: str
) -> None:
    source = write_run(tmp_path / "run.json", make_run(environment={"peft": version}))
    stored = accept(source, root=tmp_path / "b", reason="r", date=DATE)
    assert stored.name == f"0001_{title}.json"


@pytest.mark.parametrize("name", ["Linux-CPython-3.11-64bit", "ledgers", "adapters"])
def test_a_link_that_leads_out_of_the_storage_is_refused(tmp_path: Path, name: str) -> None:
    root, outside = tmp_path / "b", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / name).symlink_to(outside)
    source = write_run(tmp_path / "run.json", rich_run())
    with pytest.raises(InputError, match=r"leads out of .*Remove the link"):
        accept(source, root=root, reason="r", date=DATE)
    assert not list(outside.iterdir())


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_accepts_at_the_same_time_all_land_under_numbers_of_their_own(
    tmp_path: Path, executor: str
) -> None:
    source, count = write_run(tmp_path / "run.json"), 6
    if executor == "threads":
        pool: Any = ThreadPoolExecutor(count)
    else:
        pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        jobs = [
            pool.submit(accept, source, root=tmp_path / "b", reason=str(i), date=DATE)
            for i in range(count)
        ]
        stored = [job.result(timeout=60) for job in jobs]
    assert sorted(path.name[:4] for path in stored) == [f"{i:04d}" for i in range(1, count + 1)]
    reasons = {
        entry.run.accepted.reason for entry in read_runs(tmp_path / "b") if entry.run.accepted
    }
    assert reasons == {str(i) for i in range(count)}


def test_an_accept_that_fails_leaves_the_lock_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_run(tmp_path / "run.json")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full_disk)
        with pytest.raises(InputError, match="No space left"):
            accept(source, root=tmp_path / "b", reason="r", date=DATE)
    assert baseline_files(tmp_path / "b") == []
    started = time.monotonic()
    assert accept(source, root=tmp_path / "b", reason="r", date=DATE).name.startswith("0001_")
    assert time.monotonic() - started < 5


def test_accept_adds_only_the_entry_what_it_names_and_the_lock(tmp_path: Path) -> None:
    source, root = write_run(tmp_path / "run.json", rich_run()), tmp_path / "b"
    stored = accept(source, root=root, reason="r", date=DATE)
    ledgers = {
        ledger_file(root / "ledgers", record.ledger)
        for record in read_run_file(stored, ledgers=False).run
        if record.ledger != Ledger()
    }
    assert len(ledgers) == 2
    files = {path for path in root.rglob("*") if path.is_file()}
    derived = {stored.with_name("current.txt"), root / "newest"}
    assert files - derived - {root / ".lock"} == {stored, *ledgers}


def test_only_entries_are_taken_for_entries(tmp_path: Path) -> None:
    entry = write_entry(tmp_path, 1)
    for other in (
        "sources/manifest",
        "adapters/lora.safetensors",
        "Linux/.0002_x.json.abc",
        "Linux/0002_x.json~",
        "Linux/deep/0002_x.json",
        ".ipynb_checkpoints/0001_x.json",
        "0001_top.json",
        ".lock",
    ):
        path = tmp_path / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no run")
    assert baseline_files(tmp_path) == [entry]
    assert [stored.path for stored in read_runs(tmp_path)] == [entry]


@pytest.mark.parametrize("name", ["notes.json", "001_short.json", "0001.json", "peft-0.22.json"])
def test_a_json_file_that_is_no_entry_is_refused(tmp_path: Path, name: str) -> None:
    """It may be the newest baseline under another name; an older one must not judge instead."""
    write_entry(tmp_path, 1, folder="Linux").with_name(name).write_text("no run")
    with pytest.raises(RunFileError, match="is no entry"):
        read_runs(tmp_path)


def test_a_host_name_is_never_accepted(tmp_path: Path) -> None:
    run = make_run()
    document = make_document(run)
    document["machine_info"]["node"] = "workstation-7"
    write_run_file(tmp_path / "run.json", run, document)
    stored = accept(tmp_path / "run.json", root=tmp_path / "b", reason="r", date=DATE)
    assert "workstation-7" not in stored.read_text()


def test_the_repositorys_own_storage_is_sound(own_storage: list[RunFile]) -> None:
    assert own_storage


# --- pytest-benchmark -----------------------------------------------------------------------


def test_pytest_benchmarks_own_storage_reads_the_stored_file(tmp_path: Path) -> None:
    from pytest_benchmark.storage.file import FileStorage

    source = write_run(tmp_path / "run.json", rich_run())
    stored = accept(source, root=tmp_path / "b", reason="r", date=DATE)
    storage = FileStorage(str(tmp_path / "b"), logging.getLogger())
    found = list(storage.load_benchmarks())
    assert {entry["path"] for entry in found} == {str(stored.relative_to(tmp_path / "b"))}
    assert [entry["param"] for entry in found] == [LORA, UNSEEN_LORA, FULL]
    assert all(entry["mean"] == 0.05 for entry in found)


def test_pytest_benchmark_compare_reads_the_stored_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_benchmark.cli import main

    source = write_run(tmp_path / "run.json")
    for reason in ("first", "second"):
        accept(source, root=tmp_path / "b", reason=reason, date=DATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["", "--storage", (tmp_path / "b").as_uri(), "compare"])
    main()
    out, err = capsys.readouterr()
    assert "Failed to load" not in out + err
    assert out.count(LORA) == 2
