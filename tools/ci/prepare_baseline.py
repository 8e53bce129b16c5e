"""Prepare a run in which nothing regressed as the new baseline: accept it, keep what is new."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from constraints import ConstraintsError, newest_baseline
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from publish_drafts import write_draft, write_nothing
from publish_files import Files, read_files
from publish_results import LONGEST_BODY, PublishError, fit
from publish_text import defused_outside_code

from peft_regress.errors import PeftRegressError
from peft_regress.runs.run_file import read_run_file

if TYPE_CHECKING:
    from publish_results import Results

    from peft_regress.runs.schema import Run


def prepare_baseline(results: Results, drafts: Path, *, baselines: Path) -> str:
    """Write the draft of a baseline, with the files that `accept` adds; return what was done.

    The run must be complete and without a regression, and its releases newer than those of the
    newest baseline. `baselines` stays as it is. Raises `PublishError` if the run or the baselines
    cannot be read.
    """

    def nothing(why: str) -> str:
        return write_nothing(drafts, "baseline", f"{why}; no baseline to offer")

    if results.exit_code:
        return nothing(f"{results.candidate}: exit code {results.exit_code}")
    with tempfile.TemporaryDirectory() as temporary:
        run_file = _plain_copy(results.folder, Path(temporary) / "run")
        run = _read_run(run_file)
        if not run.selection.complete:
            return nothing(f"{results.candidate}: the run is partial")
        entry, accepted = _newest(baselines)
        newer = newer_releases(results.requirements, run.environment, accepted)
        if not newer:
            return nothing(f"{results.candidate}: no release newer than in {entry.stem}")
        releases = ", ".join(f"{name} {version}" for name, version in newer.items())
        storage = Path(temporary) / "baselines"
        shutil.copytree(baselines, storage)
        before = read_files(storage)
        _accept(run_file, storage, f"{releases}: nothing regressed against {entry.stem}")
        after = read_files(storage)
    head = f"Accept the run of {releases}, in which nothing regressed, as the new baseline.\n\n"
    findings = fit(defused_outside_code(results.findings), longest=LONGEST_BODY - 1000 - len(head))
    draft = {
        "branch": "baseline/" + "-".join(f"{name}-{version}" for name, version in newer.items()),
        "releases": releases,
        "body": head + findings,
    }
    write_draft(drafts, "baseline", draft)
    _write({name: after[name] for name in after if after[name] != before.get(name)}, drafts)
    return f"{results.candidate}: prepared the baseline in {drafts}"


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


def _plain_copy(results: Path, target: Path) -> Path:
    """Copy a run file and its adapters, without links and special files; return the run file."""
    for part in ("run.json", "run.adapters"):
        for name, content in read_files(results, part).items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return target / "run.json"


def _read_run(path: Path) -> Run:
    try:
        return read_run_file(path).run
    except PeftRegressError as error:
        raise PublishError(f"is not a run file ({error}); gate the candidate again") from error


def _newest(baselines: Path) -> tuple[Path, dict[str, str]]:
    try:
        return newest_baseline(baselines)
    except ConstraintsError as error:
        raise PublishError(str(error)) from error


def _accept(run_file: Path, storage: Path, reason: str) -> None:
    command = (sys.executable, "-m", "peft_regress", "accept", str(run_file))
    options = ("--reason", reason, "--baselines", str(storage))
    ended = subprocess.run((*command, *options), capture_output=True, check=False, text=True)
    if ended.returncode:
        raise PublishError(
            f"`peft-regress accept` failed (exit code {ended.returncode}): {ended.stderr.strip()}"
        )


def _write(files: Files, drafts: Path) -> None:
    for name, content in files.items():
        path = drafts / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
