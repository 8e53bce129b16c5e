"""Offer a prepared baseline as a pull request. It needs no package, and runs nothing of the run."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from publish_drafts import load_draft
from publish_files import Files, check_name, read_files
from publish_results import PublishError, link_to_run
from publish_text import defused_outside_code

if TYPE_CHECKING:
    from pathlib import Path

    from publish_results import Commands

_STORED: Final = re.compile(
    r"newest"
    r"|ledgers/[0-9a-f]{2}/[0-9a-f]{64}\.json\.gz"
    r"|adapters/[0-9a-f]{64}/[^/]+\.(?:json|safetensors)"
    r"|(?!(?:sources|ledgers|adapters)/)[^/]+/(?:[0-9]{4,}_[^/]+\.json|current\.txt)"
)
"""What `accept` writes to a storage: entries, what entries name, and what follows from them.
Nothing of it is ever run."""
_REPLACED: Final = ("newest", "current.txt")


def offer_baseline(drafts: Path, commands: Commands, *, baselines: Path) -> str:
    """Commit the files of a draft on a branch, and open its pull request; return what was done.

    Only files of the storage are written. If the branch has or had a pull request, even a closed
    one, none is opened. Raises `PublishError` if the draft has another form, or a command fails.
    """
    draft = load_draft(drafts, "baseline")
    if "nothing" in draft:
        return draft["nothing"]
    files = _files_of(drafts)
    branch, releases = draft["branch"], draft["releases"]
    query = ("--head", branch, "--state", "all", "--json", "number,state")
    if (answer := commands.run("gh", "pr", "list", *query).strip()) not in {"", "[]"}:
        return f"{branch} already has a pull request: {answer}"
    _commit(files, commands, baselines=baselines, branch=branch, releases=releases)
    fields = ("--head", branch, "--title", f"Baseline of {releases}", "--body-file", "-")
    body = defused_outside_code(draft["body"]) + link_to_run()
    return f"offered {commands.run('gh', 'pr', 'create', *fields, stdin=body).strip()}"


def _files_of(drafts: Path) -> Files:
    files = read_files(drafts / "files")
    for name in files:
        check_name(name)
        if not _STORED.fullmatch(name):
            raise PublishError(f"{name}: is no file that `peft-regress accept` adds to a storage")
    if not files:
        raise PublishError(f"{drafts / 'files'}: is empty; prepare the baseline again")
    return files


def _commit(
    files: Files, commands: Commands, *, baselines: Path, branch: str, releases: str
) -> None:
    """Add the files on a new branch and push it; then restore what was checked out."""
    folder = str(baselines)
    if changed := commands.run("git", "status", "--porcelain", "--", folder).strip():
        raise PublishError(f"{folder} has uncommitted changes; commit or undo them:\n{changed}")
    commands.run("git", "switch", "--create", branch)
    try:
        if not commands.dry_run:
            _write(files, baselines)
        commands.run("git", "add", "--", folder)
        commands.run("git", "commit", "--message", f"Accept {releases}", "--", folder)
        # The checkout stores no token: git asks gh for it, only here.
        helper = ("-c", "credential.helper=", "-c", "credential.helper=!gh auth git-credential")
        commands.run("git", *helper, "push", "--force", "origin", branch)
    finally:
        commands.run("git", "checkout", "--quiet", "-")


def _write(files: Files, baselines: Path) -> None:
    root = baselines.resolve()
    for name, content in files.items():
        path = root / name
        if os.path.lexists(path) and path.name not in _REPLACED:
            raise PublishError(f"{name}: is stored already, and a stored file is never replaced")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.resolve().is_relative_to(root):
            raise PublishError(f"{name}: does not lie in {baselines}")
        path.write_bytes(content)
