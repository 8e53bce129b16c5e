"""Of several packages that changed at once, find which one does it: each is tried alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peft_regress.errors import InputError
from peft_regress.findings import causes_of
from peft_regress.gate import judge_case, observations_of
from peft_regress.matrix import parse_case_id
from peft_regress.upgrade.crew import measure_cases
from peft_regress.upgrade.overlay import opened_overlay, opened_part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from peft_regress.findings import Finding
    from peft_regress.gate import Observation
    from peft_regress.upgrade.crew import Workplace
    from peft_regress.upgrade.overlay import Overlay
    from peft_regress.upgrade.pip_calls import Planned

__all__ = ["Culprits", "Trial", "find_culprits"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One package alone on top of the good environment.

    `shows`: for each finding whether it is there; None where the package cannot be tried alone,
    which `problem` then says.
    """

    package: str
    version: str
    shows: tuple[bool, ...] | None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Culprits:
    """Which packages show a finding alone, which do not, and which could not be tried."""

    alone: tuple[str, ...]
    innocent: tuple[str, ...]
    untried: tuple[tuple[str, str], ...]
    """(package, why)."""

    @property
    def sentence(self) -> str:
        """Return what follows from it."""
        if self.alone:
            names = " and ".join(self.alone)
            return f"{names} alone {'does' if len(self.alone) == 1 else 'do'} it"
        if not self.untried:
            return f"none does it alone: only together ({', '.join(self.innocent)})"
        why = "; ".join(f"{package} cannot be tried alone: {why}" for package, why in self.untried)
        innocent = f"{', '.join(self.innocent)} alone: no; " if self.innocent else ""
        return f"{innocent}{why}"


def find_culprits(
    findings: Sequence[Finding],
    candidate: Overlay,
    references: Mapping[str, Observation],
    *,
    place: Workplace,
    tell: Callable[[str], None],
) -> tuple[Culprits, ...]:
    """Try each package of a candidate alone, on the example of each finding.

    Returns one result a finding; none where only one package changed, or nothing did.
    """
    if len(candidate.planned) < 2 or not findings:  # noqa: PLR2004
        return ()
    trials = []
    for package in candidate.planned:
        tell(f"trying {package.name} {package.version} alone")
        trials.append(_tried(package, findings, candidate, references, place=place))
    return tuple(_culprits(index, trials) for index in range(len(findings)))


def _culprits(index: int, trials: Sequence[Trial]) -> Culprits:
    return Culprits(
        alone=tuple(t.package for t in trials if t.shows is not None and t.shows[index]),
        innocent=tuple(t.package for t in trials if t.shows is not None and not t.shows[index]),
        untried=tuple((t.package, t.problem or "") for t in trials if t.shows is None),
    )


def _tried(
    package: Planned,
    findings: Sequence[Finding],
    candidate: Overlay,
    references: Mapping[str, Observation],
    *,
    place: Workplace,
) -> Trial:
    """Try a package with nothing else; where that cannot be imported, with what pip says it needs.

    With that it must be less than the whole candidate, of which it would else say nothing.
    """
    problem = "it is the whole change"
    pinned = f"{package.name}=={package.version}"
    attempts: tuple[Callable[[], AbstractContextManager[Overlay]], ...] = (
        lambda: opened_part([package], seconds=place.pip_seconds),
        lambda: opened_overlay([pinned], seconds=place.pip_seconds),
    )
    for open_attempt in attempts:
        try:
            with open_attempt() as overlay:
                if overlay.packages == candidate.packages:
                    continue
                shows = _shown(findings, overlay, references, place=place)
        except InputError as error:
            problem = str(error)
            continue
        return Trial(package=package.name, version=package.version, shows=shows)
    return Trial(package=package.name, version=package.version, shows=None, problem=problem)


def _shown(
    findings: Sequence[Finding],
    overlay: Overlay,
    references: Mapping[str, Observation],
    *,
    place: Workplace,
) -> tuple[bool, ...]:
    """Return which findings an overlay shows."""
    examples = {finding.example.case: finding for finding in findings}
    run = measure_cases(
        [parse_case_id(name) for name in examples],
        python=overlay.python,
        place=place,
        trains=any(finding.cause.kind != "costs" for finding in findings),
    )
    observed = observations_of(run, "alone")
    found = set()
    for name in examples:
        old, new = references.get(name), observed.get(name)
        verdict = judge_case(name, old, new)
        found |= {(name, cause.kind, cause.what) for cause, _ in causes_of(verdict, old, new)}
    return tuple(
        (finding.example.case, finding.cause.kind, finding.cause.what) in found
        for finding in findings
    )
