"""The order of the entries of a storage, and whether all of them and all that they name is there.

Each entry names the content digest of the entry before it, where it belongs, and what it relies on:
ledgers and adapters. `newest.json` names the newest entry, so that its absence shows, too. It is
written after the entry and may be one entry behind. Entries from before the chain name nothing; the
first one of the chain names the last of them.
"""

from __future__ import annotations

import datetime as dt
import re
import shlex
from typing import TYPE_CHECKING, Final

import msgspec

from peft_regress.errors import InputError, RunFileError
from peft_regress.files import is_folder, read_bytes, write_atomic
from peft_regress.runs.ledgers import ledger_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from peft_regress.runs.run_file import RunFile
    from peft_regress.runs.schema import Acceptance

ENTRY_NAME: Final = re.compile(r"^(\d{4,})_.+\.json$")


class Newest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `newest.json`."""

    entry: str
    digest: str


def acceptance_of(entry: RunFile) -> Acceptance:
    """Return as what an entry was accepted."""
    assert entry.run.accepted is not None, entry.path  # noqa: S101  (`read_runs` refuses others)
    return entry.run.accepted


def entry_number(path: Path) -> int:
    """Return the number in the name of an entry; 0 for another name."""
    match = ENTRY_NAME.match(path.name)
    return int(match.group(1)) if match else 0


def entry_name(path: Path) -> str:
    """Return where an entry lies in its storage: `<machine id>/NNNN_<name>`."""
    return f"{path.parent.name}/{path.stem}"


def moment_of(entry: RunFile) -> dt.datetime:
    """Return when an entry was accepted, by the clock of then."""
    return dt.datetime.fromisoformat(acceptance_of(entry).date)


def in_order(stored: Iterable[RunFile]) -> list[RunFile]:
    """Sort entries by number, which is given under a lock; dates depend on clocks.

    Two entries from before the chain may have one number; then the date decides.
    """
    return sorted(
        stored, key=lambda one: (entry_number(one.path), moment_of(one), one.path.as_posix())
    )


def check_whole(root: Path, entries: Sequence[RunFile]) -> None:
    """Raise `RunFileError` if entries, or parts that they name, are missing or do not fit.

    entries: all of the storage, in order. It looks at names; who reads a part checks its content.
    """
    chained = _check_links(root, entries)
    _check_newest(root, chained)
    _check_ledgers(root, chained)
    for entry in chained:
        for case, digest in acceptance_of(entry).adapters.items():
            folder = adapter_folder(root, digest)
            if not is_folder(folder):
                raise missing_adapter(entry.path, case, folder)


def _check_links(root: Path, entries: Sequence[RunFile]) -> list[RunFile]:
    """Return the entries of the chain; raise `RunFileError` unless each follows the one before."""
    for entry in entries:
        name = acceptance_of(entry).entry
        if name not in {"", entry_name(entry.path)}:
            problem = f"was moved or renamed: it is the entry {name}"
            raise RunFileError(entry.path, problem, _restore(root))
    chained: list[RunFile] = []
    before: RunFile | None = None
    for entry in entries:
        accepted = acceptance_of(entry)
        if not accepted.entry and chained:
            raise RunFileError(
                entry.path,
                f"names no predecessor, but comes after {chained[-1].path.name}, which does: an "
                "older peft-regress stored it",
                "Upgrade with `pip install -U peft-regress`, move the file out of the storage and "
                "`peft-regress accept` it from there.",
            )
        if accepted.entry:
            if accepted.predecessor != ("" if before is None else before.run.content_digest):
                raise _broken_link(root, entry, entries)
            chained.append(entry)
        before = entry
    return chained


def _broken_link(root: Path, entry: RunFile, entries: Sequence[RunFile]) -> RunFileError:
    """Return the error of an entry that does not name the one before it."""
    predecessor = acceptance_of(entry).predecessor
    names = {one.run.content_digest: one.path.stem for one in entries} | {"": "no entry"}
    if predecessor not in names:
        problem = f"its predecessor is missing (content_digest {predecessor})"
        return RunFileError(entry.path, problem, _restore(root))
    others = [
        one.path.stem
        for one in entries
        if one is not entry
        and acceptance_of(one).entry
        and acceptance_of(one).predecessor == predecessor
    ]
    why = f"as {others[0]} does" if others else "which is not the entry before it"
    return RunFileError(
        entry.path,
        f"follows {names[predecessor]}, {why}: two branches accepted, or files were mixed",
        _take_one_side(root),
    )


def _take_one_side(root: Path) -> str:
    return (
        "Take the storage of one branch with `git restore --source BRANCH --staged --worktree -- "
        f"{shlex.quote(str(root))}`, then `peft-regress accept` the run of the other."
    )


def _check_newest(root: Path, chained: Sequence[RunFile]) -> None:
    path = newest_file(root)
    newest = read_newest(root)
    # An accept that was killed leaves it one entry behind.
    allowed: list[str | None] = [entry.run.content_digest for entry in chained[-2:]]
    if len(chained) < 2:  # noqa: PLR2004
        allowed.append(None)
    if (newest and newest.digest) in allowed:
        return
    if newest is None:
        raise RunFileError(
            path, "is missing, so that no one knows the newest entry", _restore(root)
        )
    known = {entry.run.content_digest for entry in chained}
    problem = (
        f"is older than {chained[-1].path.stem}: it names {newest.entry}"
        if newest.digest in known
        else f"names {newest.entry}, which is missing or was replaced"
    )
    raise RunFileError(path, problem, _restore(root))


def newest_file(root: Path) -> Path:
    """Return the file that names the newest entry."""
    return root / "newest.json"


def read_newest(root: Path) -> Newest | None:
    """Return which entry is the newest; None without the file. Raises `RunFileError`."""
    path = newest_file(root)
    try:
        content = read_bytes(path)
        return msgspec.json.decode(content, type=Newest)
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise RunFileError(path, problem, _restore(root)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if content.startswith(b"<<<<<<<") or b"\n<<<<<<<" in content:
            problem = "has git conflict markers: two branches accepted"
            raise RunFileError(path, problem, _take_one_side(root)) from error
        raise RunFileError(path, f"does not name an entry ({error})", _restore(root)) from error


def write_newest(root: Path, entry: RunFile) -> None:
    """Name the newest entry, unless it is named already. Raises `InputError`."""
    newest = Newest(entry=entry_name(entry.path), digest=entry.run.content_digest)
    if read_newest(root) != newest:
        write_atomic(newest_file(root), msgspec.json.format(msgspec.json.encode(newest)) + b"\n")


def _check_ledgers(root: Path, chained: Sequence[RunFile]) -> None:
    folder = root / "ledgers"
    found = {path.name for path in folder.glob("*/*.json.gz")} if is_folder(folder) else set()
    for entry in chained:
        for name, record in entry.run.cases.items():
            if isinstance(record.ledger, str):
                path = ledger_file(folder, record.ledger)
                if path.name not in found:
                    problem = f"{name}: its ledger {path} is missing"
                    raise RunFileError(entry.path, problem, _restore(folder))


def adapter_folder(root: Path, digest: str) -> Path:
    """Return where a storage keeps an adapter."""
    return root / "adapters" / digest.removeprefix("sha256:")


def missing_adapter(entry: Path, case: str, folder: Path) -> RunFileError:
    """Return the error of an entry whose adapter is not there."""
    problem = f"relies on the adapter of {case} in {folder}, which is missing"
    return RunFileError(entry, problem, _restore(folder))


def _restore(path: Path) -> str:
    return f"Restore it with `git checkout -- {shlex.quote(str(path))}`."


def check_inside(root: Path, path: Path) -> None:
    """Raise `InputError` if a path leads out of a storage, through a link for instance."""
    if not path.resolve().is_relative_to(root.resolve()):
        msg = f"{path}: leads out of {root}, to {path.resolve()}. Remove the link."
        raise InputError(msg)
