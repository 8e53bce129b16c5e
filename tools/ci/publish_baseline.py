"""Offer a run in which nothing regressed as the new baseline, as a pull request."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from constraints import ConstraintsError, newest_baseline
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from publish_results import LONGEST_BODY, PublishError, fit, link_to_run

if TYPE_CHECKING:
    from pathlib import Path

    from publish_results import Commands, Results


def offer_baseline(results: Results, commands: Commands, *, baselines: Path) -> str:
    """Commit the run as a baseline on a branch, and open its pull request; return what was done.

    The run must be complete and without a regression, and its releases newer than those of the
    newest baseline. If the branch has or had a pull request, even a closed one, none is opened.
    Raises `PublishError` if the run or the baselines cannot be read, or a command fails.
    """
    if results.exit_code:
        return f"{results.candidate}: exit code {results.exit_code}; no baseline to offer"
    run = _read_run(results.run_file)
    if not run["selection"]["complete"]:
        return f"{results.candidate}: the run is partial; no baseline to offer"
    entry, accepted = _newest(baselines)
    newer = newer_releases(results.requirements, run["environment"], accepted)
    if not newer:
        return f"{results.candidate}: no release newer than in {entry.stem}; no baseline to offer"
    branch = "baseline/" + "-".join(f"{name}-{version}" for name, version in newer.items())
    query = ("--head", branch, "--state", "all", "--json", "number,state")
    if (answer := commands.run("gh", "pr", "list", *query).strip()) not in {"", "[]"}:
        return f"{branch} already has a pull request: {answer}"
    releases = ", ".join(f"{name} {version}" for name, version in newer.items())
    _commit(results, commands, baselines=baselines, branch=branch, releases=releases, entry=entry)
    head = f"Accept the run of {releases}, in which nothing regressed, as the new baseline.\n\n"
    foot = link_to_run()
    body = head + fit(results.findings, longest=LONGEST_BODY - len(head) - len(foot)) + foot
    fields = ("--head", branch, "--title", f"Baseline of {releases}", "--body-file", "-")
    return f"offered {commands.run('gh', 'pr', 'create', *fields, stdin=body).strip()}"


def newer_releases(
    requirements: tuple[str, ...], environment: dict[str, str], accepted: dict[str, str]
) -> dict[str, str]:
    """Return the required packages whose versions are newer than the accepted ones.

    Returns nothing if any of them comes from a URL or a folder, is a pre-release, or is older.
    """
    newer: dict[str, str] = {}
    for line in requirements:
        try:
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            new, old = _public(environment[name]), _public(accepted[name])
        except (InvalidRequirement, InvalidVersion, KeyError):
            return {}
        if requirement.url or new.is_prerelease or new < old:
            return {}
        if new > old:
            newer[name] = str(new)
    return newer


def _public(version: str) -> Version:
    """Parse a version without its local part: torch's `+cpu` names a build, not a release."""
    return Version(Version(version).public)


def _commit(  # noqa: PLR0913  (all parts of the commit)
    results: Results,
    commands: Commands,
    *,
    baselines: Path,
    branch: str,
    releases: str,
    entry: Path,
) -> None:
    """Accept the run on a new branch and push it; then restore what was checked out."""
    folder = str(baselines)
    if changed := commands.run("git", "status", "--porcelain", "--", folder).strip():
        msg = f"{folder} has uncommitted changes; commit or undo them:\n{changed}"
        raise PublishError(msg)
    reason = f"{releases}: nothing regressed against {entry.stem}"
    commands.run("git", "switch", "--create", branch)
    try:
        accept = (sys.executable, "-m", "peft_regress", "accept", str(results.run_file))
        commands.run(*accept, "--reason", reason, "--baselines", folder)
        commands.run("git", "add", "--", folder)
        commands.run("git", "commit", "--message", f"Accept {releases}", "--", folder)
        # The checkout stores no token: git asks gh for it, only here.
        helper = ("-c", "credential.helper=", "-c", "credential.helper=!gh auth git-credential")
        commands.run("git", *helper, "push", "--force", "origin", branch)
    finally:
        commands.run("git", "checkout", "--quiet", "-")


def _newest(baselines: Path) -> tuple[Path, dict[str, str]]:
    try:
        return newest_baseline(baselines)
    except ConstraintsError as error:
        raise PublishError(str(error)) from error


def _read_run(path: Path) -> dict[str, Any]:
    """Read what decides whether a run is offered; `accept` checks the rest."""
    try:
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["peft_regress"]
        if isinstance(run["environment"], dict) and isinstance(run["selection"]["complete"], bool):
            return run
        problem = "its environment or its selection has another form"
    except OSError as error:
        problem = f"cannot be read, {error.strerror}"
    except (ValueError, KeyError, TypeError) as error:
        problem = repr(error)
    msg = f"{path}: is not a run file ({problem}); gate the candidate again"
    raise PublishError(msg)
