"""Many run files without their ledgers: the same runs, however they are read."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from builders import LEDGER, LORA, make_record, make_run, rich_run, write_run

from peft_regress.baselines.entries import baseline_files
from peft_regress.errors import RunFileError
from peft_regress.runs import bulk_read
from peft_regress.runs.bulk_read import read_without_ledgers
from peft_regress.runs.run_file import _read_as_written, read_run_file, with_stored_ledgers
from peft_regress.runs.schema import Ledger

BASELINES = Path(__file__).parents[2] / "baselines"


def without_ledgers(path):
    """Return the run of a file with what its records have for a ledger: digests, or nothing."""
    run = read_run_file(path).run
    written = json.loads(path.read_text())["peft_regress"]["cases"]
    ledgers = {name: record["ledger"] for name, record in written.items()}
    cases = {
        name: msgspec.structs.replace(
            record, ledger=ledgers[name] if isinstance(ledgers[name], str) else Ledger()
        )
        for name, record in run.cases.items()
    }
    return msgspec.structs.replace(run, cases=cases)


def many(folder: Path, count: int) -> list[Path]:
    records = (make_record(metrics={"peak_bytes": 5 + k // 9}) for k in range(count))
    return [write_run(folder / f"{k:03d}.json", make_run(r)) for k, r in enumerate(records)]


STORED = baseline_files(BASELINES)


@pytest.mark.parametrize(
    "path",
    # The first has the old form of ledgers; the last is as of today.
    [
        pytest.param(path, marks=() if path in {STORED[0], STORED[-1]} else pytest.mark.slow)
        for path in STORED
    ],
    ids=lambda path: path.stem,
)
def test_a_stored_entry_is_read_the_quick_way_and_is_what_the_strict_way_reads(path, monkeypatch):
    quick = _read_as_written(path, path.read_bytes(), ledgers=True)
    assert quick is not None
    summary = read_run_file(path, ledgers=False).run
    assert summary == without_ledgers(path)
    monkeypatch.setattr("peft_regress.runs.run_file._read_as_written", lambda *_, **__: None)
    strict = read_run_file(path)
    assert with_stored_ledgers(quick) == strict
    assert read_run_file(path, ledgers=False).run == summary


def test_a_file_that_was_written_by_another_tool_has_no_ledgers_either(tmp_path):
    path = write_run(tmp_path / "run.json", rich_run())
    text = json.dumps(json.loads(path.read_text()), separators=(" , ", " : "))
    assert r"\"\u00e9" in text
    path.write_text(text.replace(r"\"\u00e9", r"\u0022\u00e9"))
    assert _read_as_written(path, path.read_bytes(), ledgers=False) is None
    assert read_run_file(path, ledgers=False).run == without_ledgers(path)


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        ('"schema_version": 2,\n', '"schema_version" : 9, "schema_version": 2,\n'),
        ('"schema_version": 2,\n', '"schema_version"\n: 9, "schema_version": 2,\n'),
        ('"system": "\\":"', '"system": "\\u0022:", "system": "\\":"'),
        ('"system": "\\":"', '"system": 0, "system": "\\"\\u003a"'),
        ('"system": "\\":"', '"system": 0, "system": "\\"\\u003A"'),
        ('"system": "\\":"', '"system": 0, "system": "\\u0022\\u0022:"'),
    ],
)
def test_no_spelling_hides_a_key_that_stands_twice(tmp_path, once, twice):
    path = write_run(tmp_path / "run.json", rich_run())
    text = path.read_text().replace('"system": "Linux"', r'"system": "\":"')
    assert text.count(once) == 1
    path.write_text(text.replace(once, twice))
    with pytest.raises(RunFileError, match="occurs twice"):
        read_run_file(path, ledgers=False)


def test_files_read_by_other_processes_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(bulk_read, "usable_cores", lambda: 2)
    paths = many(tmp_path, 60)
    files = read_without_ledgers(paths)
    assert [file.run for file in files] == [without_ledgers(path) for path in paths]
    assert [file.path for file in files] == paths
    assert all(file.document["datetime"] for file in files)
    # What is equal in neighbours is one object.
    assert len({id(file.run.cases[LORA].metrics["peak_bytes"]) for file in files}) == 7


@pytest.mark.parametrize("cores", [1, 2])
def test_the_first_file_that_is_wrong_is_refused_by_name(tmp_path, monkeypatch, cores):
    monkeypatch.setattr(bulk_read, "usable_cores", lambda: cores)
    paths = many(tmp_path, 60)
    for number in (51, 17):
        text = paths[number].read_text()
        paths[number].write_text(
            text.replace('"peak_bytes": {"value": ', '"peak_bytes": {"value": 9')
        )
    with pytest.raises(RunFileError, match=r"017\.json: was altered .*git checkout"):
        read_without_ledgers(paths)


def test_a_ledger_that_is_read_by_nobody_is_checked_by_the_digest_all_the_same(tmp_path):
    path = write_run(tmp_path / "run.json", make_run(make_record(ledger=LEDGER)))
    path.write_text(path.read_text().replace(": 456", ": 457"))
    with pytest.raises(RunFileError, match="was altered"):
        read_run_file(path, ledgers=False)
