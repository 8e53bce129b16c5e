"""Accept a run: store it as the newest entry of a baseline storage, whole or not at all.

The entry is the only commit point. What it names is written first, under the digest of its content,
and the entry is renamed into place last; nothing that is there is ever overwritten. What no entry
names is litter of an accept that did not end: the next one removes it. All of it happens under the
storage's lock.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import msgspec
from packaging.version import InvalidVersion, Version

from peft_regress.baselines.current import Contents, read_contents, write_current
from peft_regress.baselines.references import split, with_confirmed
from peft_regress.baselines.storage import (
    acceptance_of,
    adapter_folder,
    baseline_files,
    check_inside,
    entry_name,
    entry_number,
)
from peft_regress.baselines.stored_adapters import ADDRESS, Choice, choose_adapters, store_adapter
from peft_regress.errors import AbsentError, InputError, UnknownNameError
from peft_regress.files import (
    TEMPORARY,
    make_folder,
    remove_leftovers,
    sync_folder,
    temporary_name,
    write_atomic,
)
from peft_regress.locks import opened_lock
from peft_regress.runs.ledger import check_sums
from peft_regress.runs.ledger_files import ledger_content, ledger_file, read_ledger, with_digests
from peft_regress.runs.run_file import (
    RunFile,
    read_run,
    read_run_file,
    without_host,
    write_run_file,
)
from peft_regress.runs.schema import Acceptance, Ledger, Role, Run, check_acceptance
from peft_regress.text import clean


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What `accept_run` did."""

    path: Path
    run: Run
    """As the entry holds it, without ledgers."""
    is_new: bool
    """False if the newest entry holds this very run already, accepted for the same reason."""
    adapters: Choice
    written: frozenset[str]
    """The digests of the adapters that the storage did not have before."""
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
    allow_errors: Sequence[str] = (),
) -> Accepted:
    """Copy a run, or an entry of another storage, into the baseline storage as its newest entry.

    Expected cases that a glob of `retire` matches are expected no longer, until an entry holds them
    again. If the newest entry is this run, accepted in the same way, nothing is stored.

    A case that repeats an entry, and shows nothing new, is one line that confirms that entry.

    Raises `InputError` if the run cannot be trusted, holds no case or a retired case, or (unless it
    is for history) repeats what is not stored, or has a case in error that no glob of
    `allow_errors` matches; if the reason is empty, if a glob of `retire` matches nothing, or if the
    storage is not whole.
    """
    if not reason.strip():
        raise InputError(
            "a baseline needs a reason: --reason TEXT says why the new numbers are right"
        )
    if not reason.isprintable():
        raise InputError(f"--reason {reason!a}: write plain text on one line")
    made = with_confirmed(read_run(source))
    if not made.run.cases:
        raise InputError(f"{source}: the run holds no case, so there is nothing to accept")
    check_sums(made.run, str(source))
    if not history:
        _check_errors(made, allow_errors)
    role: Role = "history" if history else "baseline"
    wanted = _Wanted(
        source, made, Acceptance(reason=reason, date=date, role=role, entry=""), retire
    )
    with _writing(root):
        if not root.exists():
            _plan(root, wanted, Contents())  # what is refused must leave no folder behind
        make_folder(root)
        with opened_lock(root / ".lock") as lock:
            lock.own()
            return _accept(root, wanted)


def _check_errors(made: RunFile, allowed: Sequence[str]) -> None:
    """Raise `InputError` for a case in error: accepted, it would be expected to fail."""
    wrong = [
        record
        for record in made.run
        if record.status == "error"
        and not any(fnmatchcase(record.case.id, glob) for glob in allowed)
    ]
    if wrong:
        first = wrong[0]
        more = f", as are {len(wrong) - 1} more" if wrong[1:] else ""
        raise InputError(
            f"{made.path}: {first.case.id} is in {clean(first.status_text, longest=300)}{more}. "
            f"Mend it and measure again; `--allow-errors {quote(first.case.id)}` (a glob, may be "
            "repeated) lets such errors be what is expected."
        )


def renew_current(root: Path) -> list[Path]:
    """Write anew what judges each case now; return the files that were written.

    Raises `AbsentError` without an entry, `InputError` if the storage is not whole.
    """
    if not baseline_files(root):
        raise AbsentError(
            f"{root}: holds no entry, so nothing judges. `peft-regress accept RUN` stores one."
        )
    with _writing(root), opened_lock(root / ".lock") as lock:
        lock.own()
        return write_current(root, read_contents(root, current=False))


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Say in one line why a storage cannot be written."""
    try:
        yield
    except OSError as error:
        what = error.filename or root
        raise InputError(
            f"{what}: cannot be written ({error.strerror or error}); nothing was accepted. "
            "Free some space or check its permissions, then run the same command again."
        ) from error


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
    contents = read_contents(root, current=False)
    _remove_litter(root, contents)
    if contents.links:
        write_current(root, contents)  # an accept that was killed may have left it behind
        entry = read_run_file(contents.links[-1].path(root), ledgers=False)
        if _is_same(root, entry, contents, wanted):
            sync_folder(entry.path.parent)
            return _described(entry, contents, Choice({}, {}), written=None)
    plan = _plan(root, wanted, contents)
    for folder in (plan.path.parent, root / "ledgers", root / "adapters"):
        check_inside(root, folder)
    for digest, ledger in plan.run.ledgers.items():
        _store_ledger(root, digest, ledger)
    written = {one.digest for one in plan.adapters.adapters if store_adapter(root, one)}
    run = write_run_file(plan.path, plan.run, plan.document, ledgers=False)
    entry = RunFile(path=plan.path, run=run, document=plan.document)
    contents.add(entry)
    try:
        write_current(root, contents)
    except InputError as error:
        raise InputError(f"{plan.path} is stored, but {error}") from error
    _remove_litter(root, contents)
    return _described(entry, contents, plan.adapters, written=written)


def _plan(root: Path, wanted: _Wanted, contents: Contents) -> _Plan:
    """Decide what the entry holds. Raises `InputError` if it cannot be accepted."""
    retired = retirable_cases(contents, wanted.retire)
    made = wanted.made
    run, repeats = _split(wanted, contents)
    adapters = _chosen(root, contents, wanted)
    machine_info = without_host(made.document.get("machine_info", {}))
    document = {**made.document, "machine_info": machine_info}
    number = 1 + max(map(entry_number, baseline_files(root)), default=0)
    path = root / _machine_id(document) / f"{number:04d}_{_entry_title(made.run)}.json"
    accepted = msgspec.structs.replace(
        wanted.accepted,
        retired=retired,
        repeats=repeats,
        entry=entry_name(path),
        predecessor=contents.links[-1].digest if contents.links else "",
        adapters={one.stored.case: one.digest for one in adapters.adapters},
    )
    run = with_digests(msgspec.structs.replace(run, accepted=accepted))
    check_acceptance(run)
    return _Plan(path, run, {**document, "benchmarks": _times(document, run)}, adapters)


def retirable_cases(contents: Contents, patterns: Iterable[str]) -> list[str]:
    """Return the ids of expected cases that match one of the globs, sorted.

    Raises `UnknownNameError` for a glob that matches none; it names a few expected cases.
    """
    expected = sorted(contents.judges)
    found: set[str] = set()
    for pattern in patterns:
        fitting = [name for name in expected if fnmatchcase(name, pattern)]
        if not fitting:
            few = difflib.get_close_matches(pattern, expected, n=3) or expected[:3]
            raise UnknownNameError("case pattern", pattern, few)
        found.update(fitting)
    return sorted(found)


def _times(document: dict[str, Any], run: Run) -> list[Any]:
    """Return the timed entries of the cases that an entry holds."""
    return [
        one
        for one in document.get("benchmarks", ())
        if one.get("extra_info", {}).get("peft_regress", {}).get("case_id") in run.cases
    ]


def _chosen(root: Path, contents: Contents, wanted: _Wanted) -> Choice:
    """Return the adapters that an entry names; one of role history judges nothing with them."""
    if wanted.accepted.role == "history":
        return Choice({}, {})
    return choose_adapters(wanted.made.run, wanted.source, root, contents)


def _is_same(root: Path, entry: RunFile, contents: Contents, wanted: _Wanted) -> bool:
    """Return whether the newest entry holds this run, accepted in the same way.

    Then the command was typed again. It was not if the run has got adapters in between.
    """
    accepted = acceptance_of(entry)
    retired = accepted.retired
    typed_alike = (
        (accepted.reason, accepted.role) == (wanted.accepted.reason, wanted.accepted.role)
        and all(any(fnmatchcase(one, glob) for one in retired) for glob in wanted.retire)
        and all(any(fnmatchcase(one, glob) for glob in wanted.retire) for one in retired)
    )
    if not typed_alike:
        return False
    try:
        run, repeats = _split(wanted, read_contents(root, without=[entry.path]))
    except InputError:
        return False  # it repeats the entry itself
    return (_bare(entry.run), accepted.repeats) == (_bare(with_digests(run)), repeats) and all(
        one.digest in accepted.adapters.values()
        for one in _chosen(root, contents, wanted).new.values()
    )


def _split(wanted: _Wanted, contents: Contents) -> tuple[Run, dict[str, str]]:
    """Return the run with the cases to hold, and what the others repeat; history holds all."""
    if wanted.accepted.role == "history":
        return wanted.made.run, {}
    return split(wanted.made.run, contents.references)


def _bare(run: Run) -> Run:
    """Return a run without what depends on where it is stored."""
    return msgspec.structs.replace(run, accepted=None, ledgers={}, content_digest="")


def _described(
    entry: RunFile, contents: Contents, adapters: Choice, *, written: Collection[str] | None
) -> Accepted:
    """Say what the newest entry does; `written` are the adapters that it brought, if it is new."""
    last = len(contents.links) - 1
    before = contents.links[-2] if last else None
    is_later = before is not None and before.moment > contents.links[-1].moment
    return Accepted(
        path=entry.path,
        run=entry.run,
        is_new=written is not None,
        adapters=adapters,
        written=frozenset(written or ()),
        judges=sum(judge.entry == last for judge in contents.judges.values()),
        expected=len(contents.judges),
        later_predecessor=f"{before.stem}, {before.accepted.date}" if before and is_later else "",
    )


# --- files ----------------------------------------------------------------------------------------


def _store_ledger(root: Path, digest: str, ledger: Ledger) -> None:
    """Write a ledger unless the storage has it. Raises `InputError`, also if it was altered."""
    folder = root / "ledgers"
    path = ledger_file(folder, digest)
    check_inside(root, path)
    if not path.exists():
        write_atomic(path, ledger_content(ledger))
        return
    try:
        read_ledger(folder, digest)
    except InputError as error:
        raise InputError(f"{error}. Restore it with `git checkout -- {path}`.") from error


def _remove_litter(root: Path, contents: Contents) -> None:
    """Remove what an accept that did not end left behind: what none of all entries names.

    Call it under the lock. What cannot be removed now stays for the next time.
    """
    ledgers = {ledger_file(root / "ledgers", digest) for digest in contents.ledgers}
    adapters = {adapter_folder(root, digest) for digest in contents.adapters}
    litter = [
        *(one for one in root.glob("adapters/.*") if TEMPORARY.fullmatch(one.name)),
        *(one for one in root.glob("ledgers/??/*.json.gz") if one not in ledgers),
        *(
            one
            for one in root.glob("adapters/*")
            if ADDRESS.fullmatch(one.name) and one not in adapters
        ),
    ]
    for folder in (root, *root.glob("*/"), *root.glob("ledgers/??/")):
        with contextlib.suppress(OSError):
            remove_leftovers(folder)
    for path in litter:
        with contextlib.suppress(OSError):
            if path.resolve().is_relative_to(root.resolve()):  # never through a link
                _remove(path)


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink()
        return
    # Under another name first, so that half of an adapter never passes for one.
    scratch = path.with_name(temporary_name())
    path.rename(scratch)
    shutil.rmtree(scratch)


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
