"""A journal has each record as soon as it is added, and nothing that is not whole."""

from __future__ import annotations

import errno
import json
import os

import msgspec
import pytest
from builders import ENVIRONMENT, FULL, GALORE, LORA, MACHINE, OTHER_MACHINE, make_record, make_run
from builders import write_run as write
from hypothesis import given
from hypothesis import strategies as st

from peft_regress.errors import InputError, RunFileError
from peft_regress.metrics import KNOWN
from peft_regress.runs import journal as journal_module
from peft_regress.runs.journal import (
    Header,
    JournalWriter,
    KeptRecord,
    is_being_written,
    journal_of,
    read_journal,
)
from peft_regress.runs.resuming import differences, read_parts, usable_records
from peft_regress.runs.schema import Failure, digest_of

HEADER = Header(environment=ENVIRONMENT, machine=MACHINE, metrics_known=sorted(KNOWN))
KEPT = [KeptRecord(record=make_record(name)) for name in (LORA, FULL, GALORE)]


@pytest.fixture
def path(tmp_path):
    """A journal with a header and three records."""
    writer = JournalWriter(tmp_path / "run.json.journal")
    for kept in KEPT:
        writer.add(HEADER, kept)
    writer.close()
    return writer.path


def test_what_was_added_is_read_again_also_while_the_writer_lives(tmp_path):
    writer = JournalWriter(tmp_path / "new" / "run.json.journal")
    for count, kept in enumerate(KEPT, start=1):
        writer.add(HEADER, kept)
        (part,) = read_journal(writer.path).parts
        assert part.header == HEADER
        assert part.records == KEPT[:count]
    assert is_being_written(writer.path)
    writer.close()
    assert not is_being_written(writer.path)


def test_another_environment_is_a_part_of_its_own(tmp_path):
    writer = JournalWriter(tmp_path / "journal")
    other = msgspec.structs.replace(HEADER, machine=OTHER_MACHINE)
    writer.add(HEADER, KEPT[0])
    writer.add(other, KEPT[1])
    writer.add(other, KEPT[2])
    writer.close()
    assert [len(part.records) for part in read_journal(writer.path).parts] == [1, 2]


@given(st.data())
def test_cut_anywhere_it_has_every_record_before_the_cut(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "cut.journal"
    writer = JournalWriter(path)
    ends = []
    for kept in KEPT:
        writer.add(HEADER, kept)
        ends.append(path.stat().st_size)
    writer.close()
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    found = read_journal(path)
    assert len(found.cases) == sum(end <= cut for end in ends)
    # It goes on behind what is whole.
    again = JournalWriter(path)
    again.go_on(found)
    again.add(HEADER, KEPT[0])
    again.close()
    assert found.cases | {LORA} == read_journal(path).cases
    path.unlink()


@pytest.mark.parametrize("line", [1, 2])
def test_a_line_that_was_altered_in_the_middle_is_refused(path, line):
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = lines[line - 1].replace(b"Example CPU", b"Xxample CPU").replace(b"91", b"92")
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(RunFileError, match=rf"line {line}: was altered .* make the run again"):
        read_journal(path)


def test_a_line_that_is_nested_too_deep_is_refused(path):
    deep = b'{"digest": "x", "content": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    path.write_bytes(deep + path.read_bytes())
    with pytest.raises(RunFileError, match=r"line 1: maximum recursion depth .*make the run again"):
        read_journal(path)


def test_a_record_that_contradicts_itself_is_refused(tmp_path):
    writer = JournalWriter(tmp_path / "journal")
    bad = msgspec.structs.replace(make_record(), error=Failure(type="E", message="m"))
    writer.add(HEADER, KeptRecord(record=bad), KEPT[1])
    writer.close()
    with pytest.raises(RunFileError, match=r"line 2: .*status 'ok' with error"):
        read_journal(writer.path)


def test_a_name_that_could_be_a_path_is_refused(path):
    lines = path.read_bytes().split(b"\n")
    content = json.loads(lines[1])["content"]
    content["record"]["case"]["method"] = "../../x"
    encoded = msgspec.json.encode(content)
    line = {"digest": digest_of(encoded), "content": msgspec.Raw(encoded)}
    path.write_bytes(b"\n".join([lines[0], msgspec.json.encode(line), *lines[2:]]))
    with pytest.raises(RunFileError, match="line 2"):
        read_journal(path)


def test_a_full_disk_ends_the_journal_and_not_the_run(tmp_path, monkeypatch):
    writer = JournalWriter(tmp_path / "journal")
    writer.add(HEADER, KEPT[0])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal_module.os, "fsync", full)
    writer.add(HEADER, KEPT[1])
    monkeypatch.undo()
    writer.add(HEADER, KEPT[2])
    writer.close()
    assert writer.problem.endswith("journal: cannot be written (No space left on device)")
    assert LORA in read_journal(writer.path).cases


def test_two_runs_do_not_write_to_one_journal(tmp_path):
    one, two = (JournalWriter(tmp_path / "journal") for _ in range(2))
    one.add(HEADER, KEPT[0])
    two.add(HEADER, KEPT[1])
    assert "another run writes to it" in two.problem
    two.remove()
    one.add(HEADER, KEPT[2])
    assert read_journal(one.path).cases == {LORA, GALORE}
    one.remove()
    assert not one.path.exists()


# --- what may be taken ---------------------------------------------------------------------------


def test_a_run_file_and_the_journal_beside_it_are_read_the_journal_last(tmp_path):
    run = tmp_path / "run.json"
    write(run, make_run(make_record(LORA), make_record(FULL)))
    writer = JournalWriter(journal_of(run))
    writer.add(HEADER, KEPT[2])
    writer.close()
    file, journal = read_parts(run)
    assert [kept.record.case.id for kept in file.records] == [LORA, FULL]
    assert all(kept.times is not None for kept in file.records)
    assert journal.records == KEPT[2:]
    assert read_parts(journal_of(run)) == [journal]
    run.unlink()
    assert read_parts(run) == [journal]


def test_a_journal_without_a_line_has_nothing_to_take(tmp_path):
    path = tmp_path / "run.json.journal"
    path.touch()  # its writer was killed before the first record
    assert read_parts(tmp_path / "run.json") == []
    assert read_parts(path) == []


def test_a_record_without_its_ledger_is_refused(tmp_path):
    writer = JournalWriter(tmp_path / "run.json.journal")
    record = msgspec.structs.replace(KEPT[0].record, ledger=f"sha256:{'0' * 64}")
    writer.add(HEADER, KeptRecord(record=record), KEPT[1])
    writer.close()
    with pytest.raises(RunFileError, match=f"line 2: {LORA}: its ledger stands elsewhere"):
        read_journal(writer.path)


def test_a_fifo_to_resume_from_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(RunFileError, match="is not valid JSON"):
        read_parts(tmp_path / "fifo")


def test_nothing_to_resume_is_wrong_use(tmp_path):
    with pytest.raises(InputError, match=r"run.json: no such run file or journal"):
        read_parts(tmp_path / "run.json")


def test_what_differs_is_named(path):
    (part,) = read_journal(path).parts
    assert differences(part, HEADER) == []
    environment = {**ENVIRONMENT, "peft": "0.19.0", "absent-package": "1.0"}
    here = msgspec.structs.replace(HEADER, environment=environment, machine=OTHER_MACHINE)
    package, new, machine = differences(part, here)
    assert package == "absent-package not installed, now 1.0"
    assert new == "peft 0.18.1, now 0.19.0"
    assert machine.startswith("another machine (Example CPU, 2 cores, AVX2, now Another CPU")
    older = msgspec.structs.replace(HEADER, metrics_known=["loss"])
    (part,) = [msgspec.structs.replace(older)]
    assert "other metrics" in differences(journal_module.Part(header=part, records=[]), HEADER)[0]


def test_another_commit_is_a_difference_and_an_unknown_one_is_not(path, tmp_path, monkeypatch):
    (old,) = read_journal(path).parts
    here = Header.here(ENVIRONMENT, MACHINE)
    assert differences(old, here) == []
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert Header.here(ENVIRONMENT, MACHINE).commit == "unversioned"
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "new.json"
    write(run, make_run(make_record(LORA)))
    (file,) = read_parts(run)
    assert file.header.commit == "unversioned"
    later = msgspec.structs.replace(here, commit="abc+")
    assert "commit unversioned, now abc+" in differences(file, later)


def test_cases_in_error_and_of_other_imports_are_measured_again():
    failed = make_record(FULL, {}, status="error", error=Failure(type="E", message="m"))
    records = [
        KEPT[0],
        KeptRecord(record=failed),
        KeptRecord(record=make_record(GALORE), imported={"absent-package": "1.0"}),
    ]
    part = journal_module.Part(header=HEADER, records=records)
    assert usable_records(part, HEADER).keys() == {LORA}
    found = usable_records(part, HEADER, version_of={"absent-package": "1.0"}.get)
    assert found.keys() == {LORA, GALORE}
