"""Find which of several packages that changed together is responsible: try each one by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from peft_regress.errors import InputError
from peft_regress.gate.findings import Finding, causes_of
from peft_regress.gate.judge import judge
from peft_regress.gate.repeats import known_curves
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.overlay.folder import Overlay
from peft_regress.overlay.overlay import opened_overlay, opened_part
from peft_regress.overlay.pip import Planned
from peft_regress.runs.environment import SUSPECTS
from peft_regress.text import clean
from peft_regress.upgrades.measuring import MeasuringSetup, measure_cases

_MOST_TRIALS: Final = 8
"""A torch with CUDA brings a dozen packages of its own, and none of them works by itself."""
_LONGEST_SENTENCE: Final = 600


@dataclass(frozen=True, kw_only=True)
class SinglePackageTrial:
    """One package by itself on top of the good environment, or with what it needs."""

    package: str
    others: tuple[str, ...] = ()
    """What pip changed with it, as in the candidate."""
    shows: tuple[bool, ...] | None
    """For each finding whether it is there; None if the package cannot be tried by itself."""
    problem: str | None = None
    """Why it cannot be tried."""

    @property
    def title(self) -> str:
        """The package, with all that changed with it."""
        return f"{self.package} with {', '.join(self.others)}" if self.others else self.package


@dataclass(frozen=True, kw_only=True)
class ResponsiblePackages:
    """Which of the packages that changed are responsible for one finding."""

    alone: tuple[str, ...]
    """Each of these shows the finding by itself."""
    together: tuple[str, ...] = ()
    """Each of these shows it with the packages that it needs."""
    without_effect: tuple[str, ...]
    """None of these shows it by itself, or with the packages that it needs."""
    untried: tuple[tuple[str, str], ...]
    """(package, why it cannot be tried by itself)."""
    asked: tuple[str, ...] = ()
    """The packages that were asked for: the sentence has each of them that changed."""

    @property
    def sentence(self) -> str:
        """Return the conclusion in one line."""
        return clean(self._sentence(), longest=_LONGEST_SENTENCE)

    def _sentence(self) -> str:
        found = self.alone or self.together
        if found:
            names = f"{' and '.join(found)}{' alone' if self.alone else ''}"
            does = f"{names} {'does' if len(found) == 1 else 'do'} it"
            return "; ".join([does, *self._about_asked()])
        if not self.untried:
            return f"no package alone does it, only together: {', '.join(self.without_effect)}"
        reasons = "; ".join(f"{name} cannot be tried alone: {why}" for name, why in self.untried)
        if not self.without_effect:
            return reasons
        left = " or ".join(name for name, _ in self.untried)
        return (
            f"{left}, alone or with others: {', '.join(self.without_effect)} alone: no; {reasons}"
        )

    def _about_asked(self) -> Iterator[str]:
        """Yield what is known of the packages that were asked for and are not named yet."""
        for title in self.together if self.alone else ():
            if title.split(" with ")[0] in self.asked:
                yield f"{title}: yes"
        for title in self.without_effect:
            name, *others = title.split(" with ")
            if name in self.asked:
                yield f"{title}: no" if others else f"{name} alone: no"
        for name, why in self.untried:
            if name in self.asked:
                yield f"{name} cannot be tried alone: {why}"


def find_responsible(  # noqa: PLR0913  (both sides, and what was found between them)
    findings: Sequence[Finding],
    base: Sequence[Planned],
    candidate: Sequence[Planned],
    references: Mapping[str, Observation],
    *,
    asked: Sequence[str] = (),
    base_requirements: Sequence[str] = (),
    setup: MeasuringSetup,
    progress: Callable[[str], None],
) -> tuple[ResponsiblePackages, ...]:
    """Try each package that differs by itself in the good environment, on each finding's example.

    `base` and `candidate` are what the two environments have over the running one, `references`
    what the good one measured, `asked` the packages that were asked for, `base_requirements` the
    requirements that the good one was made of. Returns one result per finding; nothing if fewer
    than two packages changed.
    """
    before, after = ({one.name: one for one in planned} for planned in (base, candidate))
    names = sorted(
        _differing(before, after),
        key=lambda name: (name not in asked, name not in SUSPECTS, name),
    )
    if len(names) < 2 or not findings:  # noqa: PLR2004  (one package needs no trial)
        return ()
    why = f"only the first {_MOST_TRIALS} packages are tried"
    trials = [
        SinglePackageTrial(package=name, shows=None, problem=why) for name in names[_MOST_TRIALS:]
    ]
    for name in names[:_MOST_TRIALS]:
        new = after.get(name)
        progress(f"trying {name} {new.version if new else 'as it is here'} alone")
        swapped = {**before, **({name: new} if new else {})}
        if new is None:
            del swapped[name]
        attempts: list[Callable[[], AbstractContextManager[Overlay]]] = [
            _opening(opened_part, tuple(swapped.values()), setup)
        ]
        if new is not None:
            others = [text for text in base_requirements if _name_of(text) != name]
            attempts.append(_opening(opened_overlay, (*others, new.source), setup))
        trials.append(
            _tried(name, attempts, findings, references, before=before, after=after, setup=setup)
        )
    return tuple(_conclusion(index, trials, asked) for index in range(len(findings)))


def _differing(one: Mapping[str, Planned], other: Mapping[str, Planned]) -> list[str]:
    """Return the packages whose versions differ between two environments."""
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if (one.get(name) and one[name].version) != (other.get(name) and other[name].version)
    ]


def _named(names: Sequence[str], planned: Mapping[str, Planned]) -> str:
    """Return what packages change to; what is not planned is as it is here."""
    found = (
        f"{name} to {planned[name].version}" if name in planned else f"{name} back"
        for name in names
    )
    return " and ".join(found)


def _opening(
    opener: Callable[..., AbstractContextManager[Overlay]],
    content: Sequence[object],
    setup: MeasuringSetup,
) -> Callable[[], AbstractContextManager[Overlay]]:
    return lambda: opener(content, seconds=setup.pip_seconds)


def _name_of(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def _conclusion(
    index: int, trials: Sequence[SinglePackageTrial], asked: Sequence[str]
) -> ResponsiblePackages:
    tried = [(trial, trial.shows[index]) for trial in trials if trial.shows is not None]
    return ResponsiblePackages(
        alone=tuple(one.title for one, shows in tried if shows and not one.others),
        together=tuple(one.title for one, shows in tried if shows and one.others),
        without_effect=tuple(one.title for one, shows in tried if not shows),
        asked=tuple(asked),
        untried=tuple((t.package, t.problem or "") for t in trials if t.shows is None),
    )


def _tried(  # noqa: PLR0913  (what to try, and what to compare it with)
    name: str,
    attempts: Sequence[Callable[[], AbstractContextManager[Overlay]]],
    findings: Sequence[Finding],
    references: Mapping[str, Observation],
    *,
    before: Mapping[str, Planned],
    after: Mapping[str, Planned],
    setup: MeasuringSetup,
) -> SinglePackageTrial:
    """Try a package with nothing else; if that fails to import, with what pip says it needs.

    An attempt that equals the whole candidate is skipped: it would show nothing about one package.
    So is one in which pip takes another release than the candidate has: it may do what that does.
    """
    problem = "it needs the whole change"
    for open_attempt in attempts:
        try:
            with open_attempt() as overlay:
                tried = {one.name: one for one in overlay.planned}
                others = [one for one in _differing(before, tried) if one != name]
                foreign = [one for one in others if one in _differing(tried, after)]
                if foreign:
                    problem = f"pip changes {_named(foreign, tried)} with it"
                if foreign or not _differing(tried, after):
                    continue
                shows = _shown(findings, overlay, references, setup=setup)
        except InputError as error:
            problem = str(error).rpartition("bin/python: ")[2]
            continue
        return SinglePackageTrial(package=name, others=tuple(others), shows=shows)
    return SinglePackageTrial(package=name, shows=None, problem=problem)


def _shown(
    findings: Sequence[Finding],
    overlay: Overlay,
    references: Mapping[str, Observation],
    *,
    setup: MeasuringSetup,
) -> tuple[bool, ...]:
    """Return which findings an overlay shows."""
    examples = dict.fromkeys(finding.example.case for finding in findings)
    run = measure_cases(
        [references[name].record.case for name in examples],
        python=overlay.python,
        setup=setup,
        planned=overlay.planned,
        trains=any(finding.cause.strand != "costs" for finding in findings),
        known=known_curves(references),
    )
    observed = observations_of(run, "alone")
    found = set()
    for verdict in judge(references, observed, expected=examples).cases:
        name = verdict.id
        causes = causes_of(verdict, references.get(name), observed.get(name))
        found |= {(name, cause.strand, cause.what) for cause, _ in causes}
    return tuple(
        (finding.example.case, finding.cause.strand, finding.cause.what) in found
        for finding in findings
    )
