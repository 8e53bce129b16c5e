"""Keep each record on disk as soon as it is measured, so that a run that dies loses nothing.

A journal stands beside the run file that is to come. It is a file of JSON lines to which a run only
appends: a header says where the records after it were measured. Each line has a digest of its
content. A last line that is cut short is ignored: the process died while it wrote.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from peft_regress.cases import Digest, Name, Version
from peft_regress.errors import InputError, RunFileError
from peft_regress.files import is_file, read_bytes
from peft_regress.metrics import KNOWN
from peft_regress.runs.environment import commit_here
from peft_regress.runs.run_file import check_record
from peft_regress.runs.schema import (
    SCHEMA_VERSION,
    Machine,
    Record,
    digest_of,
)

SUFFIX: Final = ".journal"

_BEGINNING: Final = b'{"digest":'

_REMEDY: Final = "Remove it, and make the run again."


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="header"):
    """Where and by what the records after it were measured."""

    schema_version: int = SCHEMA_VERSION
    environment: dict[Name, Version]
    """The packages of every case; what one case uses besides stands with its record."""
    direct: dict[Name, Digest] = {}
    """The digests of packages that came from no index."""
    machine: Machine
    metrics_known: list[str]
    narrowed_by: list[str] = []
    commit: str | UnsetType = UNSET
    """See `commit_here`."""

    @classmethod
    def here(
        cls,
        environment: Mapping[str, str],
        machine: Machine,
        narrowed_by: Iterable[str] = (),
        *,
        direct: Mapping[str, str] | None = None,
        commit: str | None = None,
    ) -> Header:
        """Return the header of what a commit measures with these packages on a machine.

        commit: that of the working folder if it is None.
        """
        return cls(
            environment=dict(environment),
            machine=machine,
            metrics_known=sorted(KNOWN),
            narrowed_by=list(narrowed_by),
            direct=dict(direct or {}),
            commit=commit_here() if commit is None else commit,
        )


class KeptRecord(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="record"
):
    """A record as it was measured, with what the run file says of it elsewhere."""

    record: Record
    trains: bool = True
    """False if it has only the costs of a step."""
    imported: dict[Name, Version] = {}
    """The versions of what the case uses besides: what an own case's code has imported, and the
    runtime of one that is exported."""
    times: dict[str, Any] | None = None
    """Its entry among `benchmarks`; None without times."""
    is_taken: bool = False
    """Whether an earlier run measured it."""


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    digest: str
    content: msgspec.Raw


@dataclass(frozen=True, kw_only=True)
class Part:
    """Records that were measured in one environment."""

    header: Header
    records: list[KeptRecord]


@dataclass(frozen=True, kw_only=True)
class Journal:
    """A journal as read."""

    path: Path
    parts: list[Part]
    whole_bytes: int
    """Its length without a last line that was cut short."""

    @property
    def cases(self) -> set[str]:
        """The ids of its cases."""
        return {kept.record.case.id for part in self.parts for kept in part.records}


_NAME: Final = re.compile(r"(?P<run_file>.+)\.journal(\.[0-9]+)?")


def journal_of(run_file: Path) -> Path:
    """Return the path of the journal of a run file."""
    return run_file.with_name(run_file.name + SUFFIX)


def resumed_journal(path: Path) -> Path:
    """Return the journal that a path names: the file itself, or the one beside a run file.

    The content decides, since a run file may have any name; of a file without content, the name. A
    FIFO is not opened: what is read from it is gone.
    """
    head = b""
    with contextlib.suppress(OSError):
        if is_file(path):
            with path.open("rb") as stream:
                head = stream.read(len(_BEGINNING))
    is_itself = head == _BEGINNING if head else _NAME.fullmatch(path.name)
    return path if is_itself else journal_of(path)


def run_file_of(path: Path) -> Path:
    """Return the run file that a path to resume stands for: of a journal, the one beside it."""
    match = _NAME.fullmatch(path.name) if resumed_journal(path) == path else None
    return path.with_name(match["run_file"]) if match else path


def set_aside(path: Path) -> Path:
    """Rename a journal to `<name>.1`, or to the next number that is free; return its new path."""
    number = 1
    while (free := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return path.rename(free)


def read_journal(path: Path) -> Journal:
    """Read and check a journal. Raises `RunFileError` if it cannot be trusted."""
    try:
        content = read_bytes(path)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise RunFileError(path, problem, "Check the path.") from error
    parts: list[Part] = []
    lines = content.split(b"\n")
    whole = 0
    # What follows the last line's end is empty, or was cut short.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found = _read_line(line)
        except (msgspec.DecodeError, RecursionError, InputError) as error:
            if number == len(lines) - 1:
                break
            raise RunFileError(path, f"line {number}: {error}", _REMEDY) from error
        if isinstance(found, Header):
            parts.append(Part(header=found, records=[]))
        elif parts:
            parts[-1].records.append(found)
        else:
            raise RunFileError(path, f"line {number}: a record before any header", _REMEDY)
        whole += len(line) + 1
    return Journal(path=path, parts=parts, whole_bytes=whole)


def _read_line(line: bytes) -> Header | KeptRecord:
    read = msgspec.json.decode(line, type=_Line)
    content = bytes(read.content)
    if digest_of(content) != read.digest:
        raise InputError("was altered after it was written")
    found: Header | KeptRecord = msgspec.json.decode(content, type=Header | KeptRecord)
    if isinstance(found, KeptRecord):
        check_kept(found.record)
    elif found.schema_version != SCHEMA_VERSION:
        raise InputError(
            f"has schema_version {found.schema_version}, this version reads {SCHEMA_VERSION}"
        )
    return found


def check_kept(record: Record) -> None:
    """Raise `InputError` for a record without its ledger, or one that contradicts itself."""
    if isinstance(record.ledger, str):
        raise InputError(f"{record.case.id}: its ledger stands elsewhere")
    check_record(record.case.id, record)


class JournalWriter:
    """Appends to a journal, which it makes with the first record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        """Why nothing is written any more: the run goes on, and says so at its end."""
        self._handle: int | None = None
        self._length = 0
        self._header: Header | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a record was added."""
        return self._header is not None

    def go_on(self, journal: Journal) -> None:
        """Keep the records that a journal at this path has already."""
        self._length = journal.whole_bytes

    def add(self, header: Header, *records: KeptRecord) -> None:
        """Append records that were measured where `header` says; return when they are on disk."""
        if self.problem is not None:
            return
        lines = [] if header == self._header else [_line_of(header)]
        lines += [_line_of(record) for record in records]
        try:
            self._append(b"".join(lines))
        except OSError as error:
            self.problem = f"{self.path}: cannot be written ({error.strerror or error})"
        self._header = header

    def remove(self) -> None:
        """Remove the journal: what it has is in the run file, or in what was shown."""
        if self._handle is not None or self._length:
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file, and leave it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _append(self, content: bytes) -> None:
        if self._handle is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            if not _is_mine(self._handle):
                os.close(self._handle)
                self._handle = None
                raise OSError(0, "another run writes to it")
        # An interrupt may have left half a line.
        os.ftruncate(self._handle, self._length)
        os.lseek(self._handle, self._length, os.SEEK_SET)
        left = memoryview(content)
        while left:
            left = left[os.write(self._handle, left) :]
        os.fsync(self._handle)
        self._length += len(content)


def is_being_written(path: Path) -> bool:
    """Return whether a process that lives writes to a journal."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _is_mine(handle)
    finally:
        os.close(handle)


def _is_mine(handle: int) -> bool:
    """Lock a file for as long as it is open; return whether nobody else has the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _line_of(content: Header | KeptRecord) -> bytes:
    encoded = msgspec.json.encode(content)
    return (
        msgspec.json.encode(_Line(digest=digest_of(encoded), content=msgspec.Raw(encoded))) + b"\n"
    )
