"""Accept a run: store it as the newest entry of a baseline storage, whole or not at all.

The entry is the only commit point. What it names is written first, under the digest of its content,
then the entry in one step, then what follows from all entries. Nothing of this is ever overwritten.
What an accept that was killed left behind is named by no entry, so nothing reads it. All of it
happens under the storage's lock.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote
from typing import Any

import msgspec

from peft_regress.baselines.current import Contents, read_contents, write_current
from peft_regress.baselines.references import split, with_confirmed
from peft_regress.baselines.storage import acceptance_of, baseline_files, entry_name, entry_number
from peft_regress.baselines.stored_adapters import Choice, choose_adapters, store_adapter
from peft_regress.cases import matching_ids
from peft_regress.errors import AbsentError, InputError
from peft_regress.files import remove_leftovers, write_atomic
from peft_regress.locks import opened_lock
from peft_regress.runs.ledger import check_sums
from peft_regress.runs.ledger_files import ledger_content, ledger_file, with_digests
from peft_regress.runs.run_file import RunFile, read_run, read_run_file, write_run_file
from peft_regress.runs.schema import Acceptance, Role, Run, check_acceptance
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
    judges: int
    """How many cases the entry judges."""
    expected: int
    """How many cases the storage judges."""


def accept_run(  # noqa: PLR0913  (each is one fact of the entry)
    source: Path,
    *,
    root: Path,
    date: str,
    reason: str | None = None,
    history: bool | None = None,
    retire: Sequence[str] = (),
    allow_errors: Sequence[str] = (),
) -> Accepted:
    """Copy a run, or an entry of another storage, into the baseline storage as its newest entry.

    An entry keeps its reason and role, where none is given, and the cases that it retired. Expected
    cases that a glob of `retire` matches are expected no longer, until an entry holds them again.
    If the newest entry is this run, accepted in the same way, nothing is stored.

    A case that repeats an entry, and shows nothing new, is one line that confirms that entry.

    Raises `InputError` if the run cannot be trusted, holds no case or a retired case, or (unless it
    is for history) repeats what is not stored, or has a case in error that no glob of
    `allow_errors` matches; for an empty reason, a `retire` that matches nothing, a broken storage.
    """
    made = with_confirmed(read_run(source))
    was = made.run.accepted
    reason = was.reason if was and reason is None else reason or ""
    if not reason.strip():
        problem = "a baseline needs a reason: --reason TEXT says why the new numbers are right"
        raise InputError(problem)
    if not reason.isprintable():
        raise InputError(f"--reason {reason!a}: write plain text on one line")
    if not made.run.cases:
        raise InputError(f"{source}: the run holds no case, so there is nothing to accept")
    check_sums(made.run, str(source))
    role: Role = "history" if history else "baseline"
    if was and history is None:
        role = was.role
    # What judges elsewhere was allowed there.
    if role == "baseline" and (was is None or was.role == "history"):
        _check_errors(made, allow_errors)
    accepted = Acceptance(reason=reason, date=date, role=role, entry="", retired=list(retire))
    with _writing(root):
        root.mkdir(parents=True, exist_ok=True)
        with opened_lock(root / ".lock") as lock:
            lock.own()
            remove_leftovers(root)
            contents = read_contents(root, current=False)
            if contents.links:
                write_current(root, contents)  # an accept that was killed may have left it behind
                newest = read_run_file(contents.links[-1].path(root), ledgers=False)
                if _is_same(newest, root, made, accepted):
                    return _described(newest, contents, Choice({}, {}), is_new=False)
            return _store(root, source, made, accepted, contents)


def _held(run: Run, accepted: Acceptance, contents: Contents) -> tuple[Run, Acceptance]:
    """Return what the next entry holds, confirms and retires; `accepted` retires by globs."""
    repeats = dict[str, str]()
    retired = {name for one in accepted.retired for name in matching_ids(contents.judges, one)}
    if accepted.role == "baseline":
        run, repeats = split(run, contents.judges)
        retired |= contents.judges.keys() & (run.accepted.retired if run.accepted else ())
    return run, msgspec.structs.replace(accepted, retired=sorted(retired), repeats=repeats)


def _store(
    root: Path, source: Path, made: RunFile, accepted: Acceptance, contents: Contents
) -> Accepted:
    """Write the new entry, what it names before it, and what follows from it after it."""
    run, accepted = _held(made.run, accepted, contents)
    adapters = Choice({}, {})
    if accepted.role == "baseline":
        adapters = choose_adapters(made.run, source, root, contents)
    number = 1 + max(map(entry_number, baseline_files(root)), default=0)
    peft = made.run.environment.get("peft")
    title = "run" if peft is None else f"peft-{peft.replace('!', '-')}"
    path = root / _machine_id(made.document.get("machine_info", {})) / f"{number:04d}_{title}.json"
    accepted = msgspec.structs.replace(
        accepted,
        entry=entry_name(path),
        predecessor=contents.links[-1].digest if contents.links else "",
        adapters={one.stored.case: one.digest for one in adapters.adapters},
    )
    run = with_digests(msgspec.structs.replace(run, accepted=accepted))
    check_acceptance(run)
    document = dict(made.document)
    document["benchmarks"] = [
        one
        for one in document.get("benchmarks", ())
        if one.get("extra_info", {}).get("peft_regress", {}).get("case_id") in run.cases
    ]
    for digest, ledger in run.ledgers.items():
        place = ledger_file(root / "ledgers", digest)
        if not place.exists():
            write_atomic(place, ledger_content(ledger))
    for adapter in adapters.adapters:
        store_adapter(root, adapter)
    run = write_run_file(path, run, document, ledgers=False)
    entry = RunFile(path=path, run=run, document=document)
    contents.add(entry)
    try:
        write_current(root, contents)
    except InputError as error:
        raise InputError(f"{path} is stored, but {error}") from error
    return _described(entry, contents, adapters, is_new=True)


def _described(entry: RunFile, contents: Contents, adapters: Choice, *, is_new: bool) -> Accepted:
    return Accepted(
        path=entry.path,
        run=entry.run,
        is_new=is_new,
        adapters=adapters,
        judges=sum(one.run_name == entry.path.stem for one in contents.judges.values()),
        expected=len(contents.judges),
    )


def _is_same(newest: RunFile, root: Path, made: RunFile, accepted: Acceptance) -> bool:
    """Return whether the newest entry is what accepting this run before it would have stored."""
    # Then the command was typed again.
    was = acceptance_of(newest)
    if (was.reason, was.role) != (accepted.reason, accepted.role):
        return False
    try:
        before = read_contents(root, without=[newest.path])
        run, how = _held(made.run, accepted, before)
    except InputError:
        return False
    return (
        (was.retired, was.repeats) == (how.retired, how.repeats)
        and _bare(newest.run) == _bare(run)
        and newest.run.cases == with_digests(run).cases
    )


def _bare(run: Run) -> Run:
    """Return a run without its cases and what depends on where it is stored."""
    return msgspec.structs.replace(run, cases={}, accepted=None, ledgers={}, content_digest="")


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


_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]{0,30}")


def _machine_id(info: dict[str, Any]) -> str:
    """Name the folder of the machine that made the run, as pytest-benchmark does."""
    python = ".".join(str(info.get("python_version", "0.0")).split(".")[:2])
    bits = "64bit" if "64" in str(info.get("machine", "64")) else "32bit"
    parts = (info.get("system", ""), info.get("python_implementation", "CPython"), python, bits)
    return "-".join(one if _PLAIN.fullmatch(one) else "Unknown" for one in map(str, parts))
