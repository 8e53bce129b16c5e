"""What an earlier run measured, and which of it a new run may take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from peft_regress.errors import InputError
from peft_regress.files import is_folder
from peft_regress.metrics import EDGE_METRICS, KNOWN
from peft_regress.runs.environment import commit_of
from peft_regress.runs.journal import Header, KeptRecord, Part, read_journal, resumed_journal
from peft_regress.runs.run_file import RunFile, read_run
from peft_regress.runs.schema import Machine, Record

_NO_PROGRAM: Final = "UnsupportedProgramError"
"""The error of a case that ExecuTorch refuses."""


def read_parts(path: Path) -> list[Part]:
    """Read what a run left: its journal, or its run file with the journal beside it.

    What was measured last comes last. Raises `InputError` if there is neither, or if one of them
    cannot be trusted.
    """
    journal = resumed_journal(path)
    parts: list[Part] = []
    if journal != path and (is_folder(path) or path.exists()):
        parts.append(_part_of(read_run(path)))
    if journal.exists() and not is_folder(path):
        parts += read_journal(journal).parts
    if not (parts or journal.exists()):
        raise InputError(f"{path}: no such run file or journal, so there is nothing to resume")
    return parts


def _part_of(found: RunFile) -> Part:
    """Return a run file's records as a journal has them."""
    run = found.run
    times = {
        entry["extra_info"]["peft_regress"]["case_id"]: entry
        for entry in found.document.get("benchmarks", ())
        if "peft_regress" in entry.get("extra_info", {})
    }
    commit = found.document.get("commit_info")
    header = Header(
        environment=run.environment,
        direct=run.direct,
        machine=run.machine,
        metrics_known=sorted(run.known),
        narrowed_by=run.selection.narrowed_by,
        commit=commit_of(commit) if isinstance(commit, dict) else UNSET,
    )
    packages = {name: found for name, found in run.environment.items() if name != "python"}
    records = [
        KeptRecord(
            record=record,
            imported=packages if _may_use_more(record) else {},
            times=times.get(name),
        )
        for name, record in run.cases.items()
    ]
    return Part(header=header, records=records)


def _may_use_more(record: Record) -> bool:
    """Return whether a case may use packages that not every case uses.

    A run file does not say which of them: all those of the run count.
    """
    return (
        record.is_own
        or not EDGE_METRICS.keys().isdisjoint(record.metrics)
        or (record.error is not None and record.error.type == _NO_PROGRAM)
    )


def differences(
    part: Part,
    here: Header,
    *,
    version_of: Callable[[str], str | None] | None = None,
    any_machine: bool = False,
) -> list[str]:
    """Return why the records of a part are not those of this run; empty if they are.

    version_of: the installed version of a package that not every case depends on. any_machine:
    whether records of other machines do.
    """
    there = part.header
    find = version_of or installed_version
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
        found.append(f"another machine ({_shown(there)}, now {_shown(here)})")
    if UNSET not in (there.commit, here.commit) and there.commit != here.commit:
        found.append(f"commit {there.commit}, now {here.commit}")
    if set(there.metrics_known) != set(KNOWN):
        found.append("another peft_regress, which measured other metrics")
    return found


def usable_records(
    part: Part,
    here: Header,
    *,
    version_of: Callable[[str], str | None] | None = None,
    any_machine: bool = False,
) -> dict[str, KeptRecord]:
    """Return the records of a part by case, without those that must be measured again.

    These are cases in error, whose cause may be gone, cases of another machine, and cases of which
    a package that not every case uses has changed. With `any_machine` each record says where it was
    measured.
    """
    find = version_of or installed_version
    machine = part.header.machine if any_machine else UNSET
    return {
        kept.record.case.id: _as_taken(kept, machine)
        for kept in part.records
        if kept.record.status != "error"
        and (any_machine or kept.record.machine in {UNSET, here.machine})
        and all(find(name) == old for name, old in kept.imported.items())
    }


def _as_taken(kept: KeptRecord, machine: Machine | UnsetType) -> KeptRecord:
    """Return it without the time relative to another case, which the new run works out anew.

    machine: where it was measured if it names no machine.
    """
    metrics: dict[str, Any] = {
        name: metric
        for name, metric in kept.record.metrics.items()
        if name != "relative_step_seconds"
    }
    record = msgspec.structs.replace(kept.record, metrics=metrics)
    if record.machine is UNSET:
        record = msgspec.structs.replace(record, machine=machine)
    return msgspec.structs.replace(kept, record=record, is_taken=True)


def brief(reasons: Iterable[str], *, most: int = 3) -> str:
    """Return some reasons in one line."""
    listed = list(reasons)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return "; ".join(listed[:most]) + more


def installed_version(name: str) -> str | None:
    """Return the version of an installed package; None without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _shown(header: Header) -> str:
    machine = header.machine
    return f"{machine.cpu}, {machine.cores} cores, {machine.instruction_set}"
