"""The order of the entries of a storage, and whether all of them and all that they name is there.

Each entry names the content digest of the entry before it, where it belongs, and what it relies on:
ledgers and adapters. `newest` names the newest entry, so that its absence shows, too. It is
written after the entry and may be one entry behind. Entries from before the chain name nothing; the
first one of the chain names the last of them.
"""

from __future__ import annotations

import datetime as dt
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from peft_regress.errors import InputError, RunFileError
from peft_regress.files import is_folder, read_bytes, write_atomic
from peft_regress.runs.ledgers import ledger_file
from peft_regress.runs.run_file import RunFile
from peft_regress.runs.schema import Acceptance, Role

ENTRY_NAME: Final = re.compile(r"^(\d{4,})_.+\.json$")


class Newest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `newest`."""

    entry: str
    digest: str


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry as the chain sees it."""

    name: str
    """Where it lies: `<machine id>/NNNN_<name>`."""
    file_digest: str
    """Of the bytes of its file."""
    digest: str
    """Of its content, by which its successor names it."""
    date: str
    role: Role
    entry: str
    """Where it belongs; empty before the chain."""
    predecessor: str

    @classmethod
    def of(cls, entry: RunFile, file_digest: str) -> Link:
        """Return the link of an entry."""
        accepted = acceptance_of(entry)
        return cls(
            name=entry_name(entry.path),
            file_digest=file_digest,
            digest=entry.run.content_digest,
            date=accepted.date,
            role=accepted.role,
            entry=accepted.entry,
            predecessor=accepted.predecessor,
        )

    @property
    def stem(self) -> str:
        """The name of its file, without the ending."""
        return self.name.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The name of the folder of its machine."""
        return self.name.rpartition("/")[0]

    @property
    def moment(self) -> dt.datetime:
        """When it was accepted, by the clock of then."""
        return dt.datetime.fromisoformat(self.date)

    @property
    def newest(self) -> Newest:
        """What `newest` says of it."""
        return Newest(entry=self.name, digest=self.digest)

    def path(self, root: Path) -> Path:
        """Return its file in a storage."""
        return root / f"{self.name}.json"


Names = dict[str, tuple[int, str]]
"""For each digest of a ledger or an adapter the first entry that relies on it, by its position, and
the case."""


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
    """Sort entries as the storage orders them."""
    return sorted(stored, key=place_of)


def place_of(entry: RunFile) -> tuple[int, dt.datetime, str]:
    """Return what orders entries: the number, which is given under a lock; dates depend on clocks.

    Two entries from before the chain may have one number; then the date decides.
    """
    return entry_number(entry.path), moment_of(entry), entry.path.as_posix()


def check_whole(root: Path, links: Sequence[Link], *, ledgers: Names, adapters: Names) -> None:
    """Raise `RunFileError` if entries, or parts that they name, are missing or do not fit.

    links: all of the storage, in order. It looks at names; who reads a part checks its content.
    """
    chained = _check_links(root, links)
    _check_newest(root, chained)
    _check_ledgers(root, links, ledgers)
    for digest, (index, case) in sorted(adapters.items(), key=lambda one: one[1][0]):
        folder = adapter_folder(root, digest)
        if links[index].entry and not is_folder(folder):
            raise missing_adapter(links[index].path(root), case, folder)


def _check_links(root: Path, links: Sequence[Link]) -> list[Link]:
    """Return the entries of the chain; raise `RunFileError` unless each follows the one before."""
    for link in links:
        if link.entry not in {"", link.name}:
            problem = f"was moved or renamed: it is the entry {link.entry}"
            raise RunFileError(link.path(root), problem, _restore(root))
    chained: list[Link] = []
    before: Link | None = None
    for link in links:
        if not link.entry and chained:
            raise RunFileError(
                link.path(root),
                f"names no predecessor, but comes after {chained[-1].stem}.json, which does: an "
                "older peft-regress stored it",
                "Upgrade with `pip install -U peft-regress`, move the file out of the storage and "
                "`peft-regress accept` it from there.",
            )
        if link.entry:
            if link.predecessor != ("" if before is None else before.digest):
                raise _broken_link(root, link, links)
            chained.append(link)
        before = link
    return chained


def _broken_link(root: Path, link: Link, links: Sequence[Link]) -> RunFileError:
    """Return the error of an entry that does not name the one before it."""
    predecessor, path = link.predecessor, link.path(root)
    names = {one.digest: one.stem for one in links} | {"": "no entry"}
    if predecessor not in names:
        problem = f"its predecessor is missing (content_digest {predecessor})"
        return RunFileError(path, problem, _restore(root))
    others = [
        one.stem
        for one in links
        if one is not link and one.entry and one.predecessor == predecessor
    ]
    why = f"as {others[0]} does" if others else "which is not the entry before it"
    return RunFileError(
        path,
        f"follows {names[predecessor]}, {why}: two branches accepted, or files were mixed",
        _take_one_side(root),
    )


def _take_one_side(root: Path) -> str:
    return (
        "Take the storage of one branch with `git restore --source BRANCH --staged --worktree -- "
        f"{shlex.quote(str(root))}`, then `peft-regress accept` the entry of the other, "
        "from a worktree of that branch."
    )


def _check_newest(root: Path, chained: Sequence[Link]) -> None:
    path = newest_file(root)
    newest = read_newest(root)
    # An accept that was killed leaves it one entry behind.
    allowed: list[str | None] = [link.digest for link in chained[-2:]]
    if len(chained) < 2:  # noqa: PLR2004
        allowed.append(None)
    if (newest and newest.digest) in allowed:
        return
    if newest is None:
        raise RunFileError(
            path, "is missing, so that no one knows the newest entry", _restore(root)
        )
    known = {link.digest for link in chained}
    problem = (
        f"is older than {chained[-1].stem}: it names {newest.entry}"
        if newest.digest in known
        else f"names {newest.entry}, which is missing or was replaced"
    )
    raise RunFileError(path, problem, _restore(root))


def newest_file(root: Path) -> Path:
    """Return the file that names the newest entry."""
    return root / "newest"


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


def write_newest(root: Path, newest: Newest) -> None:
    """Name the newest entry, unless it is named already. Raises `InputError`."""
    if read_newest(root) != newest:
        write_atomic(newest_file(root), msgspec.json.format(msgspec.json.encode(newest)) + b"\n")


def _check_ledgers(root: Path, links: Sequence[Link], ledgers: Names) -> None:
    folder = root / "ledgers"
    found = {path.name for path in folder.glob("*/*.json.gz")} if is_folder(folder) else set()
    missing = [
        (index, name, path)
        for digest, (index, name) in ledgers.items()
        if links[index].entry and (path := ledger_file(folder, digest)).name not in found
    ]
    if missing:
        index, name, path = min(missing, key=lambda one: one[0])
        problem = f"{name}: its ledger {path} is missing"
        raise RunFileError(links[index].path(root), problem, _restore(folder))


def has_addresses(accepted: Acceptance) -> bool:
    """Return whether an entry carries the adapters of a storage from before over."""
    return bool(accepted.entry) and accepted.role == "baseline"


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
        raise InputError(f"{path}: leads out of {root}, to {path.resolve()}. Remove the link.")
