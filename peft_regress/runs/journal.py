"""Keep each record on disk as soon as it is measured, so that a run that dies loses nothing.

A journal stands beside the run file that is to come. It is a file of JSON lines to which a run only
appends: a header says where the records after it were measured. A last line that is cut short is
ignored: the process died while it wrote.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from peft_regress.cases import Digest, Name, Version
from peft_regress.errors import InputError, RunFileError
from peft_regress.files import read_bytes, write_atomic
from peft_regress.metrics import KNOWN
from peft_regress.runs.environment import commit_here, commit_of, installed_version
from peft_regress.runs.run_file import check_record, read_run
from peft_regress.runs.schema import SCHEMA_VERSION, Machine, Record

_Schema = Annotated[int, msgspec.Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
_NAME: Final = re.compile(r"(?P<run_file>.+)\.journal(\.1)?")


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="header"):
    """Where and by what the records after it were measured."""

    schema_version: _Schema = SCHEMA_VERSION
    environment: dict[Name, Version]
    """The packages of every case; what one case uses besides stands with its record."""
    direct: dict[Name, Digest] = {}
    """The digests of packages that came from no index."""
    machine: Machine
    metrics_known: list[str]
    commit: str | UnsetType = UNSET
    """See `commit_here`."""

    @classmethod
    def here(
        cls,
        environment: Mapping[str, str],
        machine: Machine,
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


@dataclass(frozen=True, kw_only=True)
class Part:
    """Records that were measured in one environment."""

    header: Header
    records: list[KeptRecord]


@dataclass(frozen=True, kw_only=True)
class Journal:
    """A journal as read."""

    parts: list[Part]

    @property
    def cases(self) -> set[str]:
        """The ids of its cases."""
        return {kept.record.case.id for part in self.parts for kept in part.records}


def journal_of(run_file: Path) -> Path:
    """Return the path of the journal of a run file."""
    return run_file.with_name(f"{run_file.name}.journal")


def resumed_journal(path: Path) -> Path:
    """Return the journal that a path names: the file itself, or the one beside a run file."""
    return path if _NAME.fullmatch(path.name) else journal_of(path)


def run_file_of(path: Path) -> Path:
    """Return the run file that a path to resume stands for: of a journal, the one beside it."""
    match = _NAME.fullmatch(path.name)
    return path.with_name(match["run_file"]) if match else path


# --- reading --------------------------------------------------------------------------------------


def read_journal(path: Path) -> Journal:
    """Read and check a journal. Raises `RunFileError` if it cannot be trusted."""
    try:
        content = read_bytes(path)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise RunFileError(path, problem, "Check the path.") from error
    parts: list[Part] = []
    # What follows the last line's end is empty, or was cut short.
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            found: Header | KeptRecord = msgspec.json.decode(line, type=Header | KeptRecord)
            if isinstance(found, Header):
                parts.append(Part(header=found, records=[]))
                continue
            check_kept(found.record)
        except (msgspec.DecodeError, InputError) as error:
            remedy = "Remove it, and make the run again."
            raise RunFileError(path, f"line {number}: {error}", remedy) from error
        parts[-1].records.append(found)
    return Journal(parts=parts)


def check_kept(record: Record) -> None:
    """Raise `InputError` for a record without its ledger, or one that contradicts itself."""
    if isinstance(record.ledger, str):
        raise InputError(f"{record.case.id}: its ledger stands elsewhere")
    check_record(record.case.id, record)


def read_parts(path: Path) -> list[Part]:
    """Read what a run left: its journal, or its run file with the journal beside it.

    What was measured last comes last. Raises `InputError` if there is neither, or if one of them
    cannot be trusted.
    """
    journal = resumed_journal(path)
    parts = [_part_of(path)] if journal != path and path.exists() else []
    if journal.exists():
        parts += read_journal(journal).parts
    elif not parts:
        raise InputError(f"{path}: no such run file or journal, so there is nothing to resume")
    return parts


def _part_of(path: Path) -> Part:
    """Return a run file's records as a journal has them."""
    file = read_run(path)
    run, commit = file.run, file.document.get("commit_info")
    times = {
        entry["extra_info"]["peft_regress"]["case_id"]: entry
        for entry in file.document.get("benchmarks", ())
        if "peft_regress" in entry.get("extra_info", {})
    }
    header = Header(
        environment=run.environment,
        direct=run.direct,
        machine=run.machine,
        metrics_known=sorted(run.known),
        commit=commit_of(commit) if isinstance(commit, dict) else UNSET,
    )
    return Part(
        header=header,
        # A run file does not say which case uses which package besides: all of them count.
        records=[
            KeptRecord(record=record, imported=run.environment, times=times.get(name))
            for name, record in run.cases.items()
        ],
    )


# --- taking ---------------------------------------------------------------------------------------


def differences(
    part: Part,
    here: Header,
    *,
    find: Callable[[str], str | None] = installed_version,
    any_machine: bool = False,
) -> list[str]:
    """Return why the records of a part are not those of this run; empty if they are.

    find: the installed version of a package that not every case depends on. any_machine: whether
    records of other machines do.
    """
    there, found = part.header, []
    for name in sorted(there.environment.keys() | here.environment.keys()):
        old, new = there.environment.get(name), here.environment.get(name) or find(name)
        if old != new:
            found.append(f"{name} {old or 'not installed'}, now {new or 'not installed'}")
    found += [
        f"{name} of another source"
        for name in sorted(there.direct.keys() | here.direct.keys())
        if there.direct.get(name) != here.direct.get(name)
    ]
    if not any_machine and there.machine.digest != here.machine.digest:
        found.append(f"another machine ({_shown(there.machine)}, now {_shown(here.machine)})")
    if UNSET not in (there.commit, here.commit) and there.commit != here.commit:
        found.append(f"commit {there.commit}, now {here.commit}")
    if set(there.metrics_known) != set(KNOWN):
        found.append("another peft_regress, which measured other metrics")
    return found


def _shown(machine: Machine) -> str:
    return f"{machine.cpu}, {machine.cores} cores, {machine.instruction_set}"


def usable_records(
    part: Part,
    here: Header,
    *,
    find: Callable[[str], str | None] = installed_version,
    any_machine: bool = False,
) -> dict[str, KeptRecord]:
    """Return the records of a part by case, without those that must be measured again.

    These are cases in error, whose cause may be gone, cases of another machine, and cases of which
    a package that not every case uses has changed. With `any_machine` each record says where it was
    measured.
    """
    machine = part.header.machine if any_machine else UNSET
    return {
        kept.record.case.id: _as_taken(kept, machine)
        for kept in part.records
        if kept.record.status != "error"
        and (any_machine or kept.record.machine in {UNSET, here.machine})
        and all(
            (here.environment.get(name) or find(name)) == old for name, old in kept.imported.items()
        )
    }


def _as_taken(kept: KeptRecord, machine: Machine | UnsetType) -> KeptRecord:
    """Return it without the time relative to another case, which the new run works out anew."""
    metrics = dict(kept.record.metrics)
    metrics.pop("relative_step_seconds", None)
    where = machine if kept.record.machine is UNSET else kept.record.machine
    record = msgspec.structs.replace(kept.record, metrics=metrics, machine=where)
    return msgspec.structs.replace(kept, record=record, is_taken=True)


# --- writing --------------------------------------------------------------------------------------


class JournalWriter:
    """Appends to a journal, which it makes with the first record."""

    def __init__(self, path: Path, earlier: Callable[[], list[Part]] = list) -> None:
        """Write nothing yet; the journal begins with `earlier`: this run may die too."""
        self.path = path
        self.problem: str | None = None
        """Why nothing is written any more: the run goes on, and says so at its end."""
        self._earlier = earlier
        self._file: IO[bytes] | None = None
        self._length = 0
        self._header: Header | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a record was added."""
        return self._header is not None

    def add(self, header: Header, *records: KeptRecord) -> None:
        """Append records that were measured where `header` says; return when they are on disk."""
        if self.problem is not None:
            return
        lines = [*([] if header == self._header else [header]), *records]
        content = b"".join(map(_line_of, lines))
        try:
            file = self._file or self._begun()
            # An interrupt may have left half a line.
            file.truncate(self._length)
            file.seek(self._length)
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
            self._length = file.tell()
        except (OSError, InputError) as error:
            self.problem = f"{self.path}: cannot be written ({error})"
        self._header = header

    def _begun(self) -> IO[bytes]:
        earlier = self._earlier()
        content = b"".join(
            _line_of(one) for part in earlier for one in (part.header, *part.records)
        )
        write_atomic(self.path, content)
        self._file, self._length = self.path.open("r+b", buffering=0), len(content)
        return self._file

    def remove(self) -> None:
        """Remove the journal: what it has is in the run file, or in what was shown."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file, and leave it."""
        if self._file is not None:
            self._file.close()


def _line_of(content: msgspec.Struct) -> bytes:
    return msgspec.json.encode(content) + b"\n"
