"""Run the scripts of findings in an environment, for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from peft_fuzz.scripts.script import script_of
from peft_fuzz.search.findings import Finding
from peft_regress.text import clean
from peft_regress.upgrades.reproduction.reproduce import LONGEST_OUTPUT, run_script

_SECONDS: Final = 120


class Shown(NamedTuple):
    """A script, and what came of it."""

    script: str
    printed: str
    exit_code: int | None
    """1 if it shows the failure, 0 if not; None if it did not end, or was not run."""


NOT_RUN: Final = "(not run: interrupted)"


def script_unrun(finding: Finding) -> Shown:
    """Write the script of a finding."""
    return Shown(script_of(finding.example, finding.failure, finding.packages), NOT_RUN, None)


def output_of(script: str, python: Path) -> Shown:
    """Run a script in an environment."""
    done = run_script(python, script, seconds=_SECONDS)
    if done is None:
        return Shown(script, f"(nothing within {_SECONDS} s)", None)
    lines = [clean(line, longest=400) for line in done.stdout.splitlines()]
    if done.returncode:
        # What a library logs is no part of it, but an error that the script did not expect is.
        has_ended_well = "Traceback" not in done.stderr
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        lines += [] if has_ended_well else [clean(errors[-1])]
        lines.append(f"exit code {done.returncode}")
    return Shown(script, "\n".join(lines)[:LONGEST_OUTPUT], done.returncode)
