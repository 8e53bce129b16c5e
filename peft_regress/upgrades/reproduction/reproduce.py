"""Run the stand-alone script of a finding with the packages of both sides, for the report."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peft_regress.cases import Case
from peft_regress.catalogue.own_cases import own_fine_tune, settings_in_use, source_of
from peft_regress.gate.findings import Finding
from peft_regress.gate.verdicts import Observation
from peft_regress.text import clean
from peft_regress.upgrades.reproduction.script import facts_for, rendered, reproduction_script
from peft_regress.workers.process import variables

_MOST: Final = 3
_SECONDS: Final = 300
_NEEDS: Final = "torch, torchvision and the library"
_OWN_NEEDS: Final = "the project and peft-regress"


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A script that shows a finding."""

    finding: Finding
    script: str
    outputs: Mapping[str, str]
    """What the script prints, by the name of the side."""
    needs: str = _NEEDS
    """What must be installed to run it."""


def reproduce(
    findings: Sequence[Finding],
    observed: Mapping[str, Observation],
    pythons: Mapping[str, Path],
) -> tuple[Reproduction, ...]:
    """Write and run the scripts of the gravest findings that have one.

    `observed` are observations of their cases, by id; `pythons` are the interpreters of the two
    sides, by the name of the side.
    """
    made = []
    for finding in findings[:_MOST]:
        case = observed[finding.example.case].record.case
        shown = _shown(finding)
        folder = None
        if own_fine_tune(case) is None:
            script, needs = reproduction_script(case, facts=facts_for(shown)), _NEEDS
        else:
            script, needs = own_script(case, shown), _OWN_NEEDS
            folder = settings_in_use().folder
        if script is None:
            continue
        outputs = {
            side: _output(python, script, project=folder) for side, python in pythons.items()
        }
        made.append(Reproduction(finding=finding, script=script, outputs=outputs, needs=needs))
    return tuple(made)


def _shown(finding: Finding) -> set[str]:
    """Return the metrics or the invariant to show, without costs that follow from other costs."""
    if finding.cause.strand != "costs":
        return {reason.metric.removeprefix("invariant ") for reason in finding.example.reasons}
    changed = {
        reason.metric for reason in finding.example.reasons if reason.metric.endswith("_flops")
    }
    return changed | {finding.cause.what}


def _output(python: Path, script: str, *, project: Path | None) -> str:
    """Return what a script prints, or why it printed nothing; `project` is imported from."""
    environment = {} if project is None else {"PYTHONPATH": str(project.absolute())}
    done = run_script(python, script, seconds=_SECONDS, environment=environment)
    if done is None:
        return f"(nothing within {_SECONDS} s)"
    lines = [clean(line, longest=400) for line in done.stdout.splitlines()]
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        lines.append(
            f"exit code {done.returncode}: {clean(errors[-1] if errors else 'no message')}"
        )
    return "\n".join(lines)[:LONGEST_OUTPUT]


def own_script(case: Case, facts: Iterable[str]) -> str | None:
    """Return a script that measures a case and prints metrics and invariants by name.

    None if the case is not the project's own, or was given by a suite and has no import path.
    Raises `InputError` for own cases that cannot be imported.
    """
    path = source_of(case)
    if path is None:
        return None
    module, _, name = path.partition(":")
    return rendered(
        "own_case.py.jinja", case=case.id, module=module, name=name, facts=tuple(sorted(facts))
    )


LONGEST_OUTPUT: Final = 4000
"""Characters of what a script prints that a report shows."""


def run_script(
    python: Path, script: str, *, seconds: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str] | None:
    """Run a script and return how it ended; None if it did not within `seconds`.

    environment: variables besides those of a worker.
    """
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as folder:
        file = Path(folder) / "reproduction.py"
        file.write_text(script, encoding="utf-8")
        try:
            return subprocess.run(  # noqa: S603  (a script of our own)
                [str(python), "-W", "ignore", str(file)],
                cwd=folder,
                env={**variables(), **(environment or {})},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
