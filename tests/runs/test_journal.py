"""A journal has each record as soon as it is added; what is equal elsewhere may be taken."""

import errno
import os

import msgspec
import pytest
from builders import ENVIRONMENT, FULL, GALORE, LORA, MACHINE, OTHER_MACHINE, make_record, make_run
from builders import write_run as write
from hypothesis import given
from hypothesis import strategies as st

from peft_regress.errors import InputError, RunFileError
from peft_regress.invariants import KNOWN
from peft_regress.runs import journal
from peft_regress.runs.journal import Header, JournalWriter, KeptRecord, Line, read_journal
from peft_regress.runs.schema import Failure

HEADER = Header(environment=ENVIRONMENT, machine=MACHINE, metrics_known=sorted(KNOWN))
KEPT = [KeptRecord(record=make_record(name)) for name in (LORA, FULL, GALORE)]
LINES = [Line(header=HEADER, kept=kept) for kept in KEPT]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "run.json.journal"


def write_journal(path, *records):
    writer = JournalWriter(path)
    for kept in records:
        writer.add(HEADER, kept)
    writer.close()


def test_what_was_added_is_read_again_also_while_the_writer_lives(path):
    writer = JournalWriter(path)
    for count, kept in enumerate(KEPT, start=1):
        writer.add(HEADER, kept)
        assert read_journal(path) == LINES[:count]
    other = msgspec.structs.replace(HEADER, machine=OTHER_MACHINE)
    writer.add(other, KEPT[0])
    assert read_journal(path) == [*LINES, Line(header=other, kept=KEPT[0])]
    writer.remove()
    assert not path.exists()


@given(st.data())
def test_cut_anywhere_it_has_every_record_before_the_cut(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "cut.journal"
    write_journal(path, *KEPT)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    found = read_journal(path)
    assert found == LINES[: content[:cut].count(b"\n")]
    # A run that takes from it begins with what is whole.
    again = JournalWriter(path, lambda: found)
    again.add(HEADER, KEPT[0])
    again.close()
    assert read_journal(path) == [*found, LINES[0]]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b'"method":"lora"', b'"method":"../../x"', "line 1: Expected"),
        (b'"schema_version":2', b'"schema_version":3', "line 1: Expected `int` <= 2"),
        (b'"status":"ok"', b'"status":"error"', "line 1: .*status 'error' with error None"),
        (b'"times":null', b'"times":{"a":' + b"[" * 100_000, "line 1: .*recursion"),
        (b'"method":"lora"', b'"method":"\xff"', "line 1: .*UTF-8"),
    ],
)
def test_a_line_that_does_not_fit_is_refused(path, old, new, problem):
    write_journal(path, *KEPT)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(RunFileError, match=f"{problem}.* make the run again"):
        read_journal(path)


def test_a_record_without_its_ledger_is_refused(path):
    elsewhere = msgspec.structs.replace(make_record(), ledger=f"sha256:{'0' * 64}")
    write_journal(path, KeptRecord(record=elsewhere), KEPT[1])
    with pytest.raises(RunFileError, match=f"line 1: {LORA}: its ledger stands elsewhere"):
        read_journal(path)


def test_a_full_disk_ends_the_journal_and_not_the_run(path, monkeypatch):
    writer = JournalWriter(path)
    writer.add(HEADER, KEPT[0])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal.os, "fsync", full)
    writer.add(HEADER, KEPT[1])
    monkeypatch.undo()
    writer.add(HEADER, KEPT[2])
    writer.close()
    assert "journal: cannot be written ([Errno 28] No space left on device)" in writer.problem
    assert LINES[0] in read_journal(writer.path)


def test_a_run_file_and_the_journal_beside_it_are_read_the_journal_last(tmp_path):
    run = tmp_path / "run.json"
    with pytest.raises(InputError, match=r"run.json: no such run file or journal"):
        journal.read_lines(run)
    write(run, make_run(make_record(LORA), make_record(FULL)))
    write_journal(journal.journal_of(run), KEPT[2])
    *file, kept = journal.read_lines(run)
    assert [line.case for line in file] == [LORA, FULL]
    assert all(line.kept.times is not None for line in file)
    assert kept == LINES[2]
    assert journal.read_lines(journal.journal_of(run)) == [kept]
    run.unlink()
    assert journal.read_lines(run) == [kept]
    journal.journal_of(run).write_bytes(b"")  # its writer was killed before the first record
    assert journal.read_lines(run) == []


def test_another_commit_is_a_difference_and_an_unknown_one_is_not(tmp_path, monkeypatch):
    here = msgspec.structs.replace(HEADER, commit="abc")
    assert journal.differences(HEADER, here) == []
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "new.json", make_run(make_record(LORA)))
    (file,) = journal.read_lines(tmp_path / "new.json")
    assert file.header.commit == "unversioned"
    later = msgspec.structs.replace(here, commit="abc+")
    assert "commit unversioned, now abc+" in journal.differences(file.header, later)


def test_cases_in_error_and_of_other_imports_are_measured_again():
    failed = make_record(FULL, {}, status="error", error=Failure(type="E", message="m"))
    uses = KeptRecord(record=make_record(GALORE), imported={"absent-package": "1.0"})
    lines = [Line(header=HEADER, kept=one) for one in (KEPT[0], KeptRecord(record=failed), uses)]
    taken = [journal.as_taken(line, HEADER) for line in lines]
    assert [one is not None for one in taken] == [True, False, False]
    assert journal.as_taken(lines[2], HEADER, find={"absent-package": "1.0"}.get).is_taken
