"""Accept a run: store it as the newest entry of a baseline storage, whole or not at all.

The entry is the only commit point. What it names is written first, under the digest of its content,
and the entry is renamed into place last; nothing that is there is ever overwritten. What no entry
names is litter of an accept that did not end: the next one removes it. All of it happens under the
storage's lock.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from packaging.version import InvalidVersion, Version

from peft_regress.baselines.chain import (
    acceptance_of,
    check_inside,
    entry_name,
    entry_number,
    moment_of,
    write_newest,
)
from peft_regress.baselines.entries import baseline_files, read_runs
from peft_regress.baselines.objects import remove_litter, store_adapter, store_ledger
from peft_regress.baselines.references import newest_references, retirable_cases
from peft_regress.baselines.stored_adapters import Choice, choose_adapters
from peft_regress.errors import InputError
from peft_regress.files import make_folder, sync_folder
from peft_regress.locks import opened_lock
from peft_regress.runs.ledger import check_sums
from peft_regress.runs.ledgers import with_digests
from peft_regress.runs.run_file import read_run_file, without_host, write_run_file
from peft_regress.runs.schema import SCHEMA_VERSION, Acceptance, check_acceptance
from peft_regress.runs.shards import read_run
from peft_regress.text import count_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from peft_regress.runs.run_file import RunFile
    from peft_regress.runs.schema import Role, Run


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What `accept_run` did."""

    path: Path
    run: Run
    """As the entry holds it, without ledgers."""
    is_new: bool
    """False if the newest entry holds this very run already, accepted for the same reason."""
    adapters: Choice
    judges: int
    """How many cases the entry judges."""
    expected: int
    """How many cases the storage judges."""
    later_predecessor: str = ""
    """The entry before it and its date, if that is later: a clock is or was wrong."""


def accept_run(  # noqa: PLR0913  (each is one fact of the entry)
    source: Path,
    *,
    root: Path,
    reason: str,
    date: str,
    history: bool = False,
    retire: Sequence[str] = (),
) -> Accepted:
    """Copy a run into the baseline storage as its newest entry.

    Expected cases that a glob of `retire` matches are expected no longer, until an entry holds them
    again. If the newest entry is this run, accepted in the same way, nothing is stored.

    Raises `InputError` if the run cannot be trusted, holds no case or a retired case, or (unless it
    is for history) a case that was not trained, if the reason is empty, if a glob matches nothing,
    or if the storage is not whole.
    """
    if not reason.strip():
        msg = "a baseline needs a reason: --reason TEXT says why the new numbers are right"
        raise InputError(msg)
    if not reason.isprintable():
        msg = f"--reason {reason!a}: write plain text on one line"
        raise InputError(msg)
    made = read_run(source)
    if not made.run.cases:
        msg = f"{source}: the run holds no case, so there is nothing to accept"
        raise InputError(msg)
    if not history:
        _check_trained(made.run, source)
    for record in made.run:
        check_sums(record, str(source))
    role: Role = "history" if history else "baseline"
    wanted = _Wanted(source, made, Acceptance(reason=reason, date=date, role=role), retire)
    try:
        if not root.exists():
            _plan(root, wanted, [])  # what is refused must leave no folder behind
        make_folder(root)
        with opened_lock(root / ".lock") as lock:
            lock.own()
            return _accept(root, wanted)
    except OSError as error:
        what = error.filename or root
        msg = (
            f"{what}: cannot be written ({error.strerror or error}); nothing was accepted. "
            "Free some space or check its permissions, then run the same command again."
        )
        raise InputError(msg) from error


def _check_trained(run: Run, source: Path) -> None:
    """Raise `InputError` if a case was not trained: nothing would judge its accuracy later."""
    count = sum(record.is_certified for record in run)
    if count:
        msg = (
            f"{source}: {count_of(count, 'case')} of {len(run.cases)} not trained (same "
            "computation), so the run can be no baseline: measure without --regress-quick or "
            f"--quick, or store it with `peft-regress accept {shlex.quote(str(source))} --history "
            '--reason "..."`'
        )
        raise InputError(msg)


class _Wanted(NamedTuple):
    """What shall be accepted, and how."""

    source: Path
    made: RunFile
    accepted: Acceptance
    retire: Sequence[str]


class _Plan(NamedTuple):
    """The new entry."""

    path: Path
    run: Run
    """As its file holds it, with the ledgers, which go into files of their own."""
    document: dict[str, Any]
    adapters: Choice


def _accept(root: Path, wanted: _Wanted) -> Accepted:
    """Store a run while nobody else writes to the storage."""
    entries = read_runs(root, ledgers=False)
    remove_litter(root, entries)
    if entries and acceptance_of(entries[-1]).entry:
        write_newest(root, entries[-1])  # an accept that was killed left it behind
    if entries and _is_same(root, entries, wanted):
        sync_folder(entries[-1].path.parent)
        return _described(entries, Choice({}, {}), is_new=False)
    plan = _plan(root, wanted, entries)
    for folder in (plan.path.parent, root / "ledgers", root / "adapters"):
        check_inside(root, folder)
    for digest, ledger in plan.run.ledgers.items():
        store_ledger(root, digest, ledger)
    for adapter in plan.adapters.adapters:
        store_adapter(root, adapter)
    write_run_file(plan.path, plan.run, plan.document, ledgers=False)
    entry = read_run_file(plan.path, ledgers=False)
    try:
        write_newest(root, entry)
    except InputError as error:
        msg = f"{plan.path} is stored, but {error}"
        raise InputError(msg) from error
    remove_litter(root, [*entries, entry])
    return _described([*entries, entry], plan.adapters, is_new=True)


def _plan(root: Path, wanted: _Wanted, entries: Sequence[RunFile]) -> _Plan:
    """Decide what the entry holds. Raises `InputError` if it cannot be accepted."""
    retired = retirable_cases(entries, wanted.retire) if wanted.retire else []
    made = wanted.made
    adapters = _chosen(root, entries, wanted)
    machine_info = without_host(made.document.get("machine_info", {}))
    document = {**made.document, "machine_info": machine_info}
    number = 1 + max(map(entry_number, baseline_files(root)), default=0)
    path = root / _machine_id(document) / f"{number:04d}_{_entry_title(made.run)}.json"
    accepted = msgspec.structs.replace(
        wanted.accepted,
        retired=retired,
        entry=entry_name(path),
        predecessor=entries[-1].run.content_digest if entries else "",
        adapters={one.stored.case: one.digest for one in adapters.adapters},
    )
    run = with_digests(msgspec.structs.replace(made.run, accepted=accepted))
    check_acceptance(run)
    return _Plan(path, run, document, adapters)


def _chosen(root: Path, entries: Sequence[RunFile], wanted: _Wanted) -> Choice:
    """Return the adapters that an entry names; one of role history judges nothing with them."""
    if wanted.accepted.role == "history":
        return Choice({}, {})
    return choose_adapters(wanted.made.run, wanted.source, root, entries)


def _is_same(root: Path, entries: Sequence[RunFile], wanted: _Wanted) -> bool:
    """Return whether the newest entry holds this run, accepted in the same way.

    Then the command was typed again. It was not if the run has got adapters in between.
    """
    entry, accepted = entries[-1], acceptance_of(entries[-1])
    retired = accepted.retired
    is_same = (
        (accepted.reason, accepted.role) == (wanted.accepted.reason, wanted.accepted.role)
        and all(any(fnmatchcase(one, glob) for one in retired) for glob in wanted.retire)
        and all(any(fnmatchcase(one, glob) for glob in wanted.retire) for one in retired)
        and _bare(entry.run) == _bare(with_digests(wanted.made.run))
    )
    return is_same and all(
        one.digest in accepted.adapters.values()
        for one in _chosen(root, entries, wanted).new.values()
    )


def _bare(run: Run) -> Run:
    """Return a run without what depends on where it is stored."""
    return msgspec.structs.replace(
        run, schema_version=SCHEMA_VERSION, accepted=None, ledgers={}, content_digest=""
    )


def _described(entries: Sequence[RunFile], adapters: Choice, *, is_new: bool) -> Accepted:
    """Say what the newest entry does."""
    entry, before = entries[-1], entries[-2] if len(entries) > 1 else None
    references = newest_references(entries)
    is_later = before is not None and moment_of(before) > moment_of(entry)
    return Accepted(
        path=entry.path,
        run=entry.run,
        is_new=is_new,
        adapters=adapters,
        judges=sum(one.record is entry.run.cases.get(name) for name, one in references.items()),
        expected=len(references),
        later_predecessor=(
            f"{before.path.stem}, {acceptance_of(before).date}" if before and is_later else ""
        ),
    )


_LONGEST_TITLE = 40


def _entry_title(run: Run) -> str:
    """Return the part of an entry's name after its number: `peft-<version>`, if that is one."""
    try:
        version = str(Version(run.environment.get("peft", "")))
    except InvalidVersion:
        return "run"
    return f"peft-{version.replace('!', '-')}" if len(version) <= _LONGEST_TITLE else "run"


_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]{0,30}")


def _machine_id(document: dict[str, Any]) -> str:
    """Name the folder of the machine that made the run, as pytest-benchmark does."""
    info = document.get("machine_info", {})
    python = ".".join(str(info.get("python_version", "0.0")).split(".")[:2])
    bits = "64bit" if "64" in str(info.get("machine", "64")) else "32bit"
    parts = (info.get("system", ""), info.get("python_implementation", "CPython"), python, bits)
    return "-".join(one if _PLAIN.fullmatch(one) else "Unknown" for one in map(str, parts))
