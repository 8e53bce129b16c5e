"""Run the stand-alone script of a finding with the packages of both sides, for the report."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peft_regress.catalogue.own_cases import own_fine_tune
from peft_regress.gate.findings import Finding
from peft_regress.gate.verdicts import Observation
from peft_regress.text import clean
from peft_regress.upgrades.reproduction.script import facts_for, reproduction_script
from peft_regress.workers.process import variables

_MOST: Final = 3
_SECONDS: Final = 300

LONGEST_OUTPUT: Final = 4000
"""Characters of what a script prints that a report shows."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A script that shows a finding, with torch, torchvision and the library alone."""

    finding: Finding
    script: str
    outputs: Mapping[str, str]
    """What the script prints, by the name of the side."""


def reproduce(
    findings: Sequence[Finding],
    observed: Mapping[str, Observation],
    pythons: Mapping[str, Path],
) -> Iterator[Reproduction]:
    """Write and run the scripts of the gravest findings that have one: own cases have none.

    `observed` are observations of their cases, by id; `pythons` are the interpreters of the two
    sides, by the name of the side.
    """
    for finding in findings[:_MOST]:
        case = observed[finding.example.case].record.case
        if own_fine_tune(case) is not None:
            continue
        script = reproduction_script(case, facts=facts_for(_shown(finding)))
        if script is not None:
            outputs = {side: _output(python, script) for side, python in pythons.items()}
            yield Reproduction(finding=finding, script=script, outputs=outputs)


def _shown(finding: Finding) -> set[str]:
    """Return the metrics or the invariant to show, without costs that follow from other costs."""
    metrics = {reason.metric.removeprefix("invariant ") for reason in finding.example.reasons}
    if finding.cause.strand != "costs":
        return metrics
    return {name for name in metrics if name.endswith("_flops")} | {finding.cause.what}


def _output(python: Path, script: str) -> str:
    """Return what a script prints, or why it printed nothing."""
    done = run_script(python, script, seconds=_SECONDS)
    if done is None:
        return f"(nothing within {_SECONDS} s)"
    lines = [clean(line, longest=400) for line in done.stdout.splitlines()]
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        lines.append(f"exit code {done.returncode}: {clean(errors[-1])}")
    return "\n".join(lines)[:LONGEST_OUTPUT]


def run_script(
    python: Path, script: str, *, seconds: float
) -> subprocess.CompletedProcess[str] | None:
    """Run a script and return how it ended; None if it did not within `seconds`."""
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as folder:
        file = Path(folder) / "reproduction.py"
        file.write_text(script, encoding="utf-8")
        try:
            return subprocess.run(  # noqa: S603  (a script of our own)
                [str(python), "-W", "ignore", str(file)],
                cwd=folder,
                env=variables(),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
