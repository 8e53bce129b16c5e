"""Run a finding's stand-alone script on both sides, so that the report says what it prints."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.environments.reproduction.script import facts_for, reproduction_script
from peft_regress.environments.worker.environment_variables import variables
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from peft_regress.gate.findings import Finding

__all__ = ["Reproduction", "reproduce"]

_MOST: Final = 3
_SECONDS: Final = 300
_LONGEST_OUTPUT: Final = 4000


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A script, and what it prints with each side's packages."""

    finding: Finding
    script: str
    outputs: Mapping[str, str]
    needs: str = "torch, torchvision and the library"


def reproduce(findings: Sequence[Finding], pythons: Mapping[str, Path]) -> tuple[Reproduction, ...]:
    """Write and run the scripts of the gravest findings that have one.

    `pythons` are the interpreters of the sides, by what a side is called.
    """
    made = []
    for finding in findings[:_MOST]:
        case = parse_case_id(finding.example.case)
        script = reproduction_script(case, facts=facts_for(_telling(finding)))
        if script is None:
            continue
        outputs = {side: _output(python, script) for side, python in pythons.items()}
        made.append(Reproduction(finding=finding, script=script, outputs=outputs))
    return tuple(made)


def _telling(finding: Finding) -> set[str]:
    """Return the metrics or the invariant to show: of costs not those that follow from others."""
    if finding.cause.strand != "costs":
        return {reason.metric.removeprefix("invariant ") for reason in finding.example.reasons}
    moved = {
        reason.metric for reason in finding.example.reasons if reason.metric.endswith("_flops")
    }
    return moved | {finding.cause.what}


def _output(python: Path, script: str) -> str:
    """Return what a script prints; what goes wrong is told in its place."""
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as folder:
        file = Path(folder) / "reproduction.py"
        file.write_text(script, encoding="utf-8")
        try:
            done = subprocess.run(  # noqa: S603  (a script of our own)
                [str(python), "-W", "ignore", str(file)],
                cwd=folder,
                env=variables(),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"(nothing within {_SECONDS} s)"
    lines = [clean(line, longest=400) for line in done.stdout.splitlines()]
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        lines.append(
            f"exit code {done.returncode}: {clean(errors[-1] if errors else 'no message')}"
        )
    return "\n".join(lines)[:_LONGEST_OUTPUT]
