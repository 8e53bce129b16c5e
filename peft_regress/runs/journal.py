"""Keep each record on disk as soon as it is measured, so that a run that dies loses nothing.

A journal stands beside the run file that is to come. It is a file of JSON lines to which a run only
appends: each is a record, and where it was measured. A last line that is cut short is ignored: the
process died while it wrote.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from peft_regress.cases import Case, Digest, Name, Version
from peft_regress.errors import InputError, RunFileError
from peft_regress.files import read_bytes, write_atomic
from peft_regress.invariants import KNOWN
from peft_regress.project.budgets import Budget
from peft_regress.runs.environment import commit_of, installed_version
from peft_regress.runs.run_file import RunFile, check_record, read_run
from peft_regress.runs.schema import SCHEMA_VERSION, Machine, Record, Run, Selection, with_budget

_Schema = Annotated[int, msgspec.Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
_encode_lines = msgspec.json.Encoder().encode_lines
_NAME: Final = re.compile(r"(?P<run_file>.+)\.journal(\.1)?")


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and by what a record was measured."""

    schema_version: _Schema = SCHEMA_VERSION
    environment: dict[Name, Version]
    """The packages of every case; what one case uses besides stands with its record."""
    direct: dict[Name, Digest] = {}
    """The digests of packages that came from no index."""
    machine: Machine
    metrics_known: list[str]
    commit: str | UnsetType = UNSET
    """See `commit_here`."""


class KeptRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record as it was measured, with what the run file says of it elsewhere."""

    record: Record
    trains: bool = True
    """False if it has only the costs of a step."""
    imported: dict[Name, Version] = {}
    """The versions of what the case uses besides: its own code's imports, a program's runtime."""
    loaded: list[Name] = []
    """The packages of which a module is loaded once the case has run; none if that is unknown."""
    times: dict[str, Any] | None = None
    """Its entry among `benchmarks`; None without times."""
    is_taken: bool = False
    """Whether an earlier run measured it."""


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of a journal."""

    header: Header
    kept: KeptRecord

    @property
    def case(self) -> str:
        """The id of its case."""
        return self.kept.record.case.id

    @property
    def machine(self) -> Machine:
        """Where it was measured."""
        own = self.kept.record.machine
        return self.header.machine if own is UNSET else own


def header_of(lines: Sequence[Line]) -> Header:
    """Return the header of records that make one run: the last, of the machine of most."""
    machines = Counter(line.machine for line in lines)
    most = max(machines, key=lambda machine: (machines[machine], machine.digest))
    return msgspec.structs.replace(lines[-1].header, machine=most)


def run_of(
    lines: Iterable[Line],
    header: Header,
    selection: Selection,
    budget_of: Callable[[Case], Budget | None] = lambda _: None,
) -> Run:
    """Return records as one run; those of another machine than the header's name it.

    budget_of: the budget of a case that states none itself.
    """
    imported: dict[str, str] = {}
    cases: dict[str, Record] = {}
    for line in lines:
        imported |= line.kept.imported
        elsewhere = UNSET if line.machine == header.machine else line.machine
        record = msgspec.structs.replace(line.kept.record, machine=elsewhere)
        cases[line.case] = with_budget(record, budget_of)
    return Run(
        schema_version=SCHEMA_VERSION,
        environment=dict(sorted({**imported, **header.environment}.items())),
        direct=header.direct,
        machine=header.machine,
        selection=selection,
        cases=dict(sorted(cases.items())),
        metrics_known=header.metrics_known,
    )


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


def read_journal(path: Path) -> list[Line]:
    """Read and check a journal. Raises `RunFileError` if it cannot be trusted."""
    try:
        content = read_bytes(path)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise RunFileError(path, problem, "Check the path.") from error
    lines: list[Line] = []
    # What follows the last line's end is empty, or was cut short.
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            lines.append(msgspec.json.decode(line, type=Line))
            check_kept(lines[-1].case, lines[-1].kept)
        except (ValueError, RecursionError, InputError) as error:
            remedy = "Remove it, and make the run again."
            raise RunFileError(path, f"line {number}: {error}", remedy) from error
    return lines


def check_kept(name: str, kept: KeptRecord, definition: str | None = None) -> None:
    """Raise `InputError` for a record without its ledger, and as `check_record` does."""
    if isinstance(kept.record.ledger, str):
        raise InputError(f"{name}: its ledger stands elsewhere")
    check_record(name, kept.record, definition)


def partial_run(path: Path) -> RunFile:
    """Read a journal as the run that was interrupted: its records of the last environment.

    Raises `RunFileError` if it cannot be trusted, or has no record.
    """
    lines = [line for line in read_journal(path) if line.kept.trains]
    if not lines:
        raise RunFileError(path, "has no record of a training", "Make the run again.")
    last = lines[-1].header
    packages = last.environment, last.direct
    lines = [one for one in lines if (one.header.environment, one.header.direct) == packages]
    selection = Selection(complete=False, narrowed_by=["interrupted"])
    return RunFile(path=path, run=run_of(lines, header_of(lines), selection), document={})


def read_lines(path: Path) -> list[Line]:
    """Read what a run left: its journal, or its run file with the journal beside it.

    What was measured last comes last. Raises `InputError` for neither, or one not to be trusted.
    """
    journal = resumed_journal(path)
    has_file = journal != path and path.exists()
    if not has_file and not journal.exists():
        raise InputError(f"{path}: no such run file or journal, so there is nothing to resume")
    lines = _lines_of(path) if has_file else []
    return lines + (read_journal(journal) if journal.exists() else [])


def _lines_of(path: Path) -> list[Line]:
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
    # A run file does not say which case uses which package besides: all of them count.
    kept = (
        KeptRecord(record=record, imported=run.environment, times=times.get(name))
        for name, record in run.cases.items()
    )
    return [Line(header=header, kept=one) for one in kept]


def differences(
    there: Header,
    here: Header,
    *,
    find: Callable[[str], str | None] = installed_version,
    any_machine: bool = False,
) -> list[str]:
    """Return why what was measured there is not what this run measures; empty if it is.

    find: the installed version of a package that not every case depends on. any_machine: whether
    records of other machines do.
    """
    found = []
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


def as_taken(
    line: Line, here: Header, *, find: Callable[[str], str | None] = installed_version
) -> KeptRecord | None:
    """Return what a line without `differences` keeps; None if it must be measured again.

    That is a case in error, whose cause may be gone, and a case of which a package that not every
    case uses has changed. The new run works out anew the time relative to another case. A record of
    another machine names it.
    """
    kept, record = line.kept, line.kept.record
    uses = {name: here.environment.get(name) or find(name) for name in kept.imported}
    if record.status == "error" or uses != kept.imported:
        return None
    metrics = {name: one for name, one in record.metrics.items() if name != "relative_step_seconds"}
    elsewhere = UNSET if line.machine == here.machine else line.machine
    record = msgspec.structs.replace(record, metrics=metrics, machine=elsewhere)
    return msgspec.structs.replace(kept, record=record, is_taken=True)


@dataclass
class JournalWriter:
    """Appends to a journal, which it makes with the first record."""

    path: Path
    _earlier: Callable[[], list[Line]] = list  # what it begins with: this run may die too
    problem: str | None = None
    """Why nothing is written any more: the run goes on, and says so at its end."""
    _file: IO[bytes] | None = None
    _length: int = 0
    has_begun: bool = False
    """Whether a record was added, or taken from an earlier run."""

    def add(self, header: Header, kept: KeptRecord) -> None:
        """Append a record that was measured where `header` says; return when it is on disk.

        One that was taken stands among those of the earlier run.
        """
        content = b"" if kept.is_taken else _encode_lines([Line(header=header, kept=kept)])
        self.has_begun = True
        if self.problem is not None:
            return
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

    def _begun(self) -> IO[bytes]:
        content = _encode_lines(self._earlier())
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
