"""The entries of a storage: where they lie, their order, and whether all of them are there.

Each entry names the content digest of the entry before it, its own place, and what it relies on:
ledgers and adapters. `newest` names the newest entry, so that its absence shows, too. An error
without a remedy gets the commands that take the last whole state from git.
"""

import contextlib
import itertools
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Final, NamedTuple, Self, TypeVar

import msgspec

from peft_regress.errors import InputError, RunFileError
from peft_regress.files import is_folder, read_bytes
from peft_regress.overlay.commits import git
from peft_regress.runs.run_file import CONFLICT, RunFile, read_run_file
from peft_regress.runs.schema import Acceptance

_T = TypeVar("_T")
_Read = Callable[[Path, list[Path]], _T]
"""Reads the entries of a storage, and checks that nothing is missing."""

_ENTRY_NAME: Final = re.compile(r"^(\d{4,})_.+\.json$")

_OTHER_FOLDERS = frozenset({"adapters", "ledgers", "sources"})


def baseline_files(root: Path) -> list[Path]:
    """List the entries of a baseline storage, `<machine id>/NNNN_<name>.json`, oldest first.

    Raises `RunFileError` for a JSON file that is no entry, `InputError` for an unreadable folder:
    either could hide the newest baseline.
    """
    if not is_folder(root):
        return []
    try:
        found = [
            path
            for folder in root.iterdir()
            if folder.is_dir() and not folder.name.startswith(".")
            if folder.name not in _OTHER_FOLDERS
            for path in folder.iterdir()
        ]
    except OSError as error:
        problem = f"{error.filename}: cannot be read ({error.strerror}). Check its permissions."
        raise InputError(problem) from error
    entries = [path for path in found if path.suffix == ".json" and not path.name.startswith(".")]
    for path in entries:
        if not _ENTRY_NAME.match(path.name):
            problem = "is no entry: the name of an entry is <machine id>/NNNN_<name>.json"
            raise RunFileError(path, problem, "Rename it, or move it out of the baselines.")
    return sorted(entries, key=lambda path: (entry_number(path), path.as_posix()))


def entry_number(path: Path) -> int:
    """Return the number in the name of an entry; 0 for another name."""
    match = _ENTRY_NAME.match(path.name)
    return int(match.group(1)) if match else 0


def entry_name(path: Path) -> str:
    """Return where an entry lies in its storage: `<machine id>/NNNN_<name>`."""
    return f"{path.parent.name}/{path.stem}"


def adapter_folder(root: Path, digest: str) -> Path:
    """Return where a storage keeps an adapter."""
    return root / "adapters" / digest.removeprefix("sha256:")


def read_entries_of(paths: Iterable[Path], *, ledgers: bool = False) -> Iterator[RunFile]:
    """Read entries one by one. Raises `RunFileError` for one that was never accepted."""
    for path in paths:
        entry = read_run_file(path, ledgers=ledgers)
        if entry.run.accepted is None:
            remedy = f"Move it away and type `peft-regress accept {path.name} --reason TEXT`."
            raise RunFileError(path, "is among the baselines but was never accepted", remedy)
        yield entry


def acceptance_of(entry: RunFile) -> Acceptance:
    """Return as what an entry was accepted."""
    assert entry.run.accepted is not None, entry.path  # noqa: S101  (`read_entries_of` refuses others)
    return entry.run.accepted


class Link(NamedTuple):
    """An entry as a link of the chain."""

    name: str
    """Where it lies: `<machine id>/NNNN_<name>`."""
    digest: str
    """Of its content, by which its successor names it."""
    accepted: Acceptance

    @classmethod
    def of(cls, entry: RunFile) -> Self:
        """Return the link of an entry."""
        return cls(entry_name(entry.path), entry.run.content_digest, acceptance_of(entry))

    @property
    def stem(self) -> str:
        """The name of its file, without the ending."""
        return self.name.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The name of the folder of its machine."""
        return self.name.rpartition("/")[0]

    def path(self, root: Path) -> Path:
        """Return its file in a storage."""
        return root / f"{self.name}.json"


class Newest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `newest`."""

    entry: str
    digest: str
    names: str
    """A digest of the names of all entries, in their order."""
    current: dict[str, str]
    """The digest of each machine folder's `current.txt`."""


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
        raise RunFileError(path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        problem = f"does not name an entry ({error})"
        if CONFLICT.search(content):
            problem = "has git conflict markers: two branches accepted, or an entry was reverted"
        raise RunFileError(path, problem) from error


def check_order(root: Path, links: Sequence[Link]) -> None:
    """Raise `RunFileError` unless each entry follows the one before, and `newest` names one."""
    for link in links:
        if link.accepted.entry != link.name:
            problem = f"was moved or renamed: it is the entry {link.accepted.entry}"
            raise RunFileError(link.path(root), problem)
    before = ""
    for link in links:
        if link.accepted.predecessor != before:
            raise RunFileError(link.path(root), _broken_link(link, links))
        before = link.digest
    path, newest = newest_file(root), read_newest(root)
    # The first accept that was killed leaves none.
    if newest is None and len(links) > 1:
        raise RunFileError(path, "is missing, so that no one knows the newest entry")
    if newest and newest.digest not in {link.digest for link in links}:
        raise RunFileError(path, f"names {newest.entry}, which is missing or was replaced")


def _broken_link(link: Link, links: Sequence[Link]) -> str:
    """Return the problem of an entry that does not name the one before it."""
    predecessor = link.accepted.predecessor
    names = {one.digest: one.stem for one in links} | {"": "no entry"}
    if predecessor not in names:
        return f"its predecessor is missing (content_digest {predecessor})"
    others = [
        one.stem for one in links if one is not link and one.accepted.predecessor == predecessor
    ]
    why = f"as {others[0]} does" if others else "which is not the entry before it"
    return f"follows {names[predecessor]}, {why}: two branches accepted, or files were mixed"


def read_while_still(root: Path, read: _Read[_T]) -> _T:
    """Read the entries of a storage; once more if one was accepted meanwhile.

    An error without a remedy gets the commands that make the storage whole.
    """
    while True:
        paths = baseline_files(root)
        try:
            return read(root, paths)
        except RunFileError as error:
            if baseline_files(root) == paths:
                raise RunFileError(
                    error.path, error.problem, error.remedy or _remedy(root, read)
                ) from error


def _remedy(root: Path, read: _Read[_T]) -> str:
    """Return the commands that take the last whole state, and accept the entries it lacks."""
    of_this_branch = ("rev-list", "--first-parent", "--abbrev-commit", "--max-count=10", "HEAD")
    with contextlib.suppress(InputError), tempfile.TemporaryDirectory() as scratch:
        for commit in git(root, *of_this_branch, "--", ".").split():
            copy = Path(scratch, commit)
            with contextlib.suppress(InputError):
                git(root, "archive", f"--output={copy}.tar", commit, ".")
                shutil.unpack_archive(f"{copy}.tar", copy, filter="tar")
                read(copy, kept := baseline_files(copy))
                if kept:
                    return _commands(root, commit, {path.read_bytes() for path in kept})
    return "No commit of git has it whole: take it from another checkout or a backup."


def _commands(root: Path, commit: str, kept: set[bytes]) -> str:
    # What git does not know yet is in the folder that is put aside.
    asides = (root.with_name(f"{root.name}.aside-{number}") for number in itertools.count(1))
    aside = next(path for path in asides if not path.exists())
    words = [
        f"mv {quote(str(root))} {quote(str(aside))}",
        f"git restore --source {commit} --staged --worktree -- {quote(str(root))}",
    ]
    words += [
        f"peft-regress accept {quote(str(aside / path.relative_to(root)))} "
        f"--baselines {quote(str(root))}"
        for path in baseline_files(root)
        if path.read_bytes() not in kept
    ]
    more = ", and accept what that lacks" if words[2:] else ""
    return f"Put it aside, take that of commit {commit}{more}: `{' && '.join(words)}`."
