"""Read what a run left, and write what may be published of it: texts, and files of the storage.

    python tools/ci/prepare.py comment verdict drafts
    python tools/ci/prepare.py issue results drafts
    python tools/ci/prepare.py baseline results drafts

A candidate's or a fork's code may have written the files of a run. So this runs in a job whose
token can write nothing; `publish.py` runs in another job and takes only drafts: `comment.md`,
`issue.md` or `baseline.md`, empty if there is nothing to publish. `issue` and `baseline` take the
folder that the gate's action keeps (requirements.txt, exit-code, findings.md, run.json,
run.adapters), `comment` the folder with comment.md.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from constraints import ConstraintsError, newest_baseline
from untrusted import (
    Files,
    UntrustedError,
    defused,
    defused_outside_code,
    fit,
    read_files,
    read_text,
)

MARKER: Final = "<!-- peft-regress -->"
"""The first line of a verdict, as `peft_regress.report` writes it."""


def main(arguments: list[str] | None = None) -> int:
    """Prepare a draft; return 0, also if there is nothing to publish, or 2 if that failed."""
    chosen = argument_parser().parse_args(arguments)
    try:
        if chosen.kind == "comment":
            text = read_text(chosen.results / "comment.md").strip().removeprefix(MARKER)
            draft, done = fit(defused(text.strip())), "prepared the comment"
        elif chosen.kind == "issue":
            draft, done = prepared_issue(chosen.results)
        else:
            draft, done = prepared_baseline(chosen.results, chosen.drafts, chosen.baselines)
    except (ConstraintsError, UntrustedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chosen.drafts.mkdir(parents=True, exist_ok=True)
    (chosen.drafts / f"{chosen.kind}.md").write_text(draft, encoding="utf-8")
    print(done)
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("comment", "issue", "baseline"))
    parser.add_argument("results", type=Path, help="the folder with the run's results")
    parser.add_argument("drafts", type=Path, help="the folder to write to")
    parser.add_argument("--baselines", type=Path, default=Path("baselines"), help="the storage")
    return parser


def exit_code(results: Path) -> int:
    """Return the exit code of the gate. Raises `UntrustedError` if it is none."""
    code = read_text(results / "exit-code").strip()
    if not code.isdecimal():
        raise UntrustedError(
            f"{results / 'exit-code'}: {code[:40]!r} is not an exit code; gate the candidate again"
        )
    return int(code)


def prepared_issue(results: Path) -> tuple[str, str]:
    """Return the findings of what regressed, and what was done."""
    code = exit_code(results)
    if code != 1:
        return "", f"nothing regressed (exit code {code}); no issue"
    findings = read_text(results / "findings.md").strip()
    if not findings:
        raise UntrustedError(
            f"{results / 'findings.md'}: is missing or empty, although something regressed"
        )
    return fit(defused_outside_code(findings)), "prepared the issue"


def prepared_baseline(results: Path, drafts: Path, baselines: Path) -> tuple[str, str]:
    """Accept the run of a release in a copy of the storage; keep the files that this adds.

    The run must be complete and without a regression, and its releases newer than those of the
    newest baseline. Returns the releases on a line with the findings below, and what was done.
    """
    # Only this needs packages; the job that prepares texts installs none.
    from peft_regress.errors import PeftRegressError
    from peft_regress.runs.run_file import read_run_file

    if code := exit_code(results):
        return "", f"exit code {code}; no baseline to offer"
    with tempfile.TemporaryDirectory() as temporary:
        run_file = Path(temporary) / "run" / "run.json"
        files = read_files(results)
        _write({name: files[name] for name in files if name.startswith("run.")}, run_file.parent)
        try:
            run = read_run_file(run_file).run
        except PeftRegressError as error:
            raise UntrustedError(f"{error}; gate the candidate again") from error
        if not run.selection.complete:
            return "", "the run is partial; no baseline to offer"
        entry, accepted = newest_baseline(baselines)
        lines = read_text(results / "requirements.txt").split("\n")
        newer = newer_releases(list(filter(None, lines)), run.environment, accepted)
        if not newer:
            return "", f"no release newer than in {entry.stem}; no baseline to offer"
        releases = ", ".join(f"{name} {version}" for name, version in newer.items())
        storage = Path(temporary) / "baselines"
        shutil.copytree(baselines, storage)
        before = read_files(storage)
        _accept(run_file, storage, f"{releases}: nothing regressed against {entry.stem}")
        after = read_files(storage)
    _write(
        {name: after[name] for name in after if after[name] != before.get(name)}, drafts / "files"
    )
    findings = fit(defused_outside_code(read_text(results / "findings.md").strip()))
    return f"{releases}\n\n{findings}", f"prepared the baseline of {releases}"


def newer_releases(
    requirements: list[str], environment: dict[str, str], accepted: dict[str, str]
) -> dict[str, str]:
    """Return the required packages whose versions are newer than the accepted ones.

    Returns nothing if any of them comes from a URL or a folder, is a pre-release, or is older.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    newer: dict[str, str] = {}
    for line in requirements:
        try:
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            # Without its local part: torch's `+cpu` names a build, not a release.
            new, old = (Version(Version(side[name]).public) for side in (environment, accepted))
        except (InvalidRequirement, InvalidVersion, KeyError):
            return {}
        if requirement.url or new.is_prerelease or new < old:
            return {}
        if new > old:
            newer[name] = str(new)
    return newer


def _accept(run_file: Path, storage: Path, reason: str) -> None:
    command = (sys.executable, "-m", "peft_regress", "accept", str(run_file))
    options = ("--reason", reason, "--baselines", str(storage))
    ended = subprocess.run((*command, *options), capture_output=True, check=False, text=True)
    if ended.returncode:
        raise UntrustedError(
            f"`peft-regress accept` failed (exit code {ended.returncode}): {ended.stderr.strip()}"
        )


def _write(files: Files, folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
