"""A checkout as it was at an earlier commit, which a change of it is compared with.

The checkout stays as it is: the commit is written into a clone that shares its objects.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from peft_regress.errors import InputError
from peft_regress.files import is_folder
from peft_regress.overlay.overlay import is_path
from peft_regress.text import printable

MERGE_BASE: Final = "merge-base"
_PREFIX: Final = "git:"
_UPSTREAM: Final = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
"""The branches that a change may be meant for, where CI does not say which."""


class Commit(NamedTuple):
    """What requirements were before a change."""

    requirements: list[str]
    """The same as those of the change, with a clone in the place of each checkout."""
    digest: str
    """The ids of the commits."""
    title: str
    """What a report calls it: `commit 0123456789ab, the merge base with origin/main`."""

    @property
    def name(self) -> str:
        """Return the name of a run of it."""
        return self.title.partition(",")[0]


def is_commit(base: str) -> bool:
    """Return whether a base is a commit: `merge-base` or `git:REF`."""
    return base == MERGE_BASE or base.startswith(_PREFIX)


@contextmanager
def earlier_checkouts(requirements: Sequence[str], base: str) -> Iterator[Commit]:
    """Give the requirements with each checkout as it was at a commit.

    base: `git:REF`, or `merge-base` with the branch that the change is meant for. Raises
    `InputError` if no requirement is a checkout of git, or has no such commit.
    """
    texts, commits, title = list(requirements), list[str](), ""
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as scratch:
        for index, text in enumerate(requirements):
            folder = Path(text)
            if not (is_path(text) and is_folder(folder)):
                continue
            root = git(folder, "rev-parse", "--show-toplevel")
            commit, title = _found(folder, base)
            clone = Path(scratch, str(index))
            git(folder, "clone", "--quiet", "--shared", "--no-checkout", root, str(clone))
            git(clone, "checkout", "--quiet", "--detach", commit)
            texts[index] = str(clone / git(folder, "rev-parse", "--show-prefix"))
            commits.append(commit)
        if not commits:
            raise InputError(
                f"--base {base}: no requirement is a checkout; name its folder, as in "
                f"`peft-regress upgrade ./peft --base {base}`"
            )
        yield Commit(texts, "-".join(commits), title)


def _found(folder: Path, base: str) -> tuple[str, str]:
    """Return the id of a commit, and what reports call it."""
    if base != MERGE_BASE:
        ref = base.removeprefix(_PREFIX)
        commit = git(folder, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
        return commit, f"commit {commit[:12]}, {printable(ref)}"
    target = os.environ.get("GITHUB_BASE_REF")
    branches = (f"origin/{target}",) if target else _UPSTREAM
    known = set(git(folder, "for-each-ref", "--format=%(refname)").split())
    names = {one: {f"refs/remotes/{one}", f"refs/heads/{one}"} for one in branches}
    branch = next((one for one in branches if names[one] & known), None)
    if branch is None:
        raise InputError(
            f"{folder}: has no branch {' or '.join(branches)}: fetch it, as by `git fetch origin`, "
            "or name another commit by --base git:REF"
        )
    commit = git(folder, "merge-base", "HEAD", branch)
    is_clean = not git(folder, "status", "--porcelain")
    if is_clean and commit == git(folder, "rev-parse", "HEAD"):
        raise InputError(
            f"{folder}: has nothing that {branch} lacks, so that there is no change to judge; name "
            "another commit by --base git:REF, such as git:HEAD~1"
        )
    return commit, f"commit {commit[:12]}, the merge base with {branch}"


def git(folder: Path, *words: str) -> str:
    """Return what git prints in a folder. Raises `InputError` with its message if it fails."""
    try:
        done = subprocess.run(  # noqa: S603  (git, as the user has it)
            ("git", "-C", str(folder), *words),  # noqa: S607
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise InputError("git is not installed, which commits are read with") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or "failed without a message"
        raise InputError(f"{folder}: git {words[0]}: {said}")
    return done.stdout.strip()
