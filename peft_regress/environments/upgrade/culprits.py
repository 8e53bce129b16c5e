"""Of several packages that changed at once, find which one does it: each is tried alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.environments.overlay.overlay import opened_overlay, opened_part
from peft_regress.environments.upgrade.crew import measure_cases
from peft_regress.errors import InputError
from peft_regress.gate.findings import causes_of
from peft_regress.gate.judge import judge_case
from peft_regress.gate.verdicts import observations_of
from peft_regress.runs.environment import SUSPECTS
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from peft_regress.environments.overlay.overlay import Overlay
    from peft_regress.environments.overlay.pip import Planned
    from peft_regress.environments.upgrade.crew import MeasuringSetup
    from peft_regress.gate.findings import Finding
    from peft_regress.gate.verdicts import Observation

__all__ = ["Culprits", "Trial", "find_culprits"]

_MOST_TRIALS: Final = 8
"""A torch with CUDA brings a dozen packages of its own, none of which can be had alone."""
_LONGEST_SENTENCE: Final = 600


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One package alone on top of the good environment.

    `shows`: for each finding whether it is there; None where the package cannot be tried alone,
    which `problem` then says.
    """

    package: str
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
        """Return what follows from it, in one line."""
        return clean(self._sentence(), longest=_LONGEST_SENTENCE)

    def _sentence(self) -> str:
        if self.alone:
            names = " and ".join(self.alone)
            return f"{names} alone {'does' if len(self.alone) == 1 else 'do'} it"
        if not self.untried:
            return f"none does it alone: only together ({', '.join(self.innocent)})"
        reasons = "; ".join(f"{name} cannot be tried alone: {why}" for name, why in self.untried)
        if not self.innocent:
            return reasons
        left = " or ".join(name for name, _ in self.untried)
        return f"{left}, alone or with others: {', '.join(self.innocent)} alone: no; {reasons}"


def find_culprits(  # noqa: PLR0913  (both sides, and what was found between them)
    findings: Sequence[Finding],
    base: Sequence[Planned],
    candidate: Sequence[Planned],
    references: Mapping[str, Observation],
    *,
    base_requirements: Sequence[str] = (),
    place: MeasuringSetup,
    say: Callable[[str], None],
) -> tuple[Culprits, ...]:
    """Try each package that differs alone in the good environment, on each finding's example.

    `base` and `candidate` are what the two environments have over the running one, `references`
    what the good one measured, `base_requirements` what it was asked to have. Returns one result a
    finding; none where only one package changed, or nothing did.
    """
    sides = [{one.name: one for one in planned} for planned in (base, candidate)]
    before, after = sides
    names = sorted(
        (
            name
            for name in before.keys() | after.keys()
            if (before.get(name) and before[name].version)
            != (after.get(name) and after[name].version)
        ),
        key=lambda name: (name not in SUSPECTS, name),
    )
    if len(names) < 2 or not findings:  # noqa: PLR2004  (one needs no trial)
        return ()
    why = f"only the first {_MOST_TRIALS} packages are tried"
    trials = [Trial(package=name, shows=None, problem=why) for name in names[_MOST_TRIALS:]]
    for name in names[:_MOST_TRIALS]:
        new = after.get(name)
        say(f"trying {name} {new.version if new else 'as it is here'} alone")
        swapped = {**before, **({name: new} if new else {})}
        if new is None:
            del swapped[name]
        attempts: list[Callable[[], AbstractContextManager[Overlay]]] = [
            _opening(opened_part, tuple(swapped.values()), place)
        ]
        if new is not None:
            others = [text for text in base_requirements if _name_of(text) != name]
            attempts.append(_opening(opened_overlay, (*others, new.source), place))
        whole = {one.name: one.version for one in candidate}
        trials.append(_tried(name, attempts, whole, findings, references, place=place))
    return tuple(_culprits(index, trials) for index in range(len(findings)))


def _opening(
    opener: Callable[..., AbstractContextManager[Overlay]],
    what: Sequence[object],
    place: MeasuringSetup,
) -> Callable[[], AbstractContextManager[Overlay]]:
    return lambda: opener(what, seconds=place.pip_seconds)


def _name_of(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def _culprits(index: int, trials: Sequence[Trial]) -> Culprits:
    return Culprits(
        alone=tuple(t.package for t in trials if t.shows is not None and t.shows[index]),
        innocent=tuple(t.package for t in trials if t.shows is not None and not t.shows[index]),
        untried=tuple((t.package, t.problem or "") for t in trials if t.shows is None),
    )


def _tried(  # noqa: PLR0913  (what to try, and what to compare it with)
    name: str,
    attempts: Sequence[Callable[[], AbstractContextManager[Overlay]]],
    whole: Mapping[str, str],
    findings: Sequence[Finding],
    references: Mapping[str, Observation],
    *,
    place: MeasuringSetup,
) -> Trial:
    """Try a package with nothing else; where that cannot be imported, with what pip says it needs.

    With that it must be less than the whole candidate, of which it would else say nothing.
    """
    problem = "it comes with the whole change"
    for open_attempt in attempts:
        try:
            with open_attempt() as overlay:
                if overlay.packages == whole:
                    continue
                shows = _shown(findings, overlay, references, place=place)
        except InputError as error:
            problem = str(error).rpartition("bin/python: ")[2]
            continue
        return Trial(package=name, shows=shows)
    return Trial(package=name, shows=None, problem=problem)


def _shown(
    findings: Sequence[Finding],
    overlay: Overlay,
    references: Mapping[str, Observation],
    *,
    place: MeasuringSetup,
) -> tuple[bool, ...]:
    """Return which findings an overlay shows."""
    examples = {finding.example.case: finding for finding in findings}
    run = measure_cases(
        [parse_case_id(name) for name in examples],
        python=overlay.python,
        place=place,
        trains=any(finding.cause.strand != "costs" for finding in findings),
    )
    observed = observations_of(run, "alone")
    found = set()
    for name in examples:
        old, new = references.get(name), observed.get(name)
        verdict = judge_case(name, old, new)
        found |= {(name, cause.strand, cause.what) for cause, _ in causes_of(verdict, old, new)}
    return tuple(
        (finding.example.case, finding.cause.strand, finding.cause.what) in found
        for finding in findings
    )
