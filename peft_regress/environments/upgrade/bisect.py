"""Find the release of a package in which the verdict on a case changes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from packaging.utils import canonicalize_name

from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.environments.upgrade.bisect_cases import check_metric, chosen_cases, evidence_for
from peft_regress.environments.upgrade.boundary import find_boundary
from peft_regress.environments.upgrade.culprits import find_culprits
from peft_regress.environments.upgrade.releases import Releases, releases_between
from peft_regress.errors import AbsentError, InputError
from peft_regress.gate.judge import judge
from peft_regress.runs.environment import changed_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from packaging.version import Version

    from peft_regress.cases import Case
    from peft_regress.environments.upgrade.crew import MeasuringSetup
    from peft_regress.environments.upgrade.culprits import Culprits
    from peft_regress.gate.comparison import Comparison
    from peft_regress.gate.findings import Finding
    from peft_regress.gate.verdicts import Observation

__all__ = ["BisectSettings", "Bisection", "Transition", "bisect"]

_INVARIANT: Final = "invariant "


@dataclass(frozen=True, kw_only=True)
class BisectSettings:
    """What is searched for, and among which releases.

    case: an id or a glob; None for one pairing of each method and architecture. metric: the metric
    or the invariant that is to have moved; None for any. every: look at each release, and report
    each transition. beside: requirements that hold next to each release.
    """

    package: str
    good: str
    bad: str
    place: MeasuringSetup
    case: str | None = None
    metric: str | None = None
    matrix: str = "default"
    every: bool = False
    pre: bool = False
    beside: tuple[str, ...] = ()
    replace_torch: bool = False


@dataclass(frozen=True, kw_only=True)
class Transition:
    """A release that changes something, the one before it, and what changes.

    between: releases in between that could not be tried. culprits: of each finding, which of the
    packages that changed does it; none where only one changed.
    """

    old: Version
    new: Version
    between: tuple[Version, ...]
    comparison: Comparison
    """With the findings of the metric that was asked for only."""
    changed: Mapping[str, tuple[str | None, str | None]]
    culprits: tuple[Culprits, ...]


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """What came of it. `trained`: whether it took fine-tuning to see a change, not costs alone."""

    settings: BisectSettings
    versions: tuple[Version, ...]
    transitions: tuple[Transition, ...]
    skipped: Mapping[Version, str]
    tried: tuple[Version, ...]
    cases: tuple[str, ...]
    trained: bool


def bisect(settings: BisectSettings, *, say: Callable[[str], None] = lambda _: None) -> Bisection:
    """Find the release, or with `every` each one, in which the verdict changes.

    Costs come first, since they need no training; only where they are the same at both ends do the
    cases train. Raises `InputError` where an end cannot be measured, `AbsentError` for what is not
    there, `UnknownNameError` for a name that is none.
    """
    check_metric(settings.metric)
    cases = chosen_cases(settings.case, matrix=settings.matrix)
    versions = releases_between(
        settings.package,
        settings.good,
        settings.bad,
        pre=settings.pre,
        seconds=settings.place.pip_seconds,
    )
    releases = Releases(
        package=canonicalize_name(settings.package),
        versions=versions,
        place=settings.place,
        beside=settings.beside,
        replace_torch=settings.replace_torch,
        say=say,
    )
    search = _Search(settings=settings, releases=releases, say=say)
    found, trained = search.every(cases) if settings.every else search.first(cases)
    return Bisection(
        settings=settings,
        versions=versions,
        transitions=tuple(found),
        skipped=dict(releases.skipped),
        tried=tuple(version for version in versions if version in releases.tried),
        cases=tuple(case.id for case in cases),
        trained=trained,
    )


@dataclass(frozen=True, kw_only=True)
class _Search:
    settings: BisectSettings
    releases: Releases
    say: Callable[[str], None]

    def first(self, cases: Sequence[Case]) -> tuple[list[Transition], bool]:
        """Return the first change of each kind that the two ends differ in."""
        versions = self.releases.versions
        for trains in evidence_for(self.settings.metric):
            ends = [
                self._end(version, cases, trains=trains) for version in (versions[0], versions[-1])
            ]
            self._check_absent(ends)
            findings = self._compared(*ends).findings
            if findings:
                return self._located(findings, trains=trains), trains
        return [], trains

    def every(self, cases: Sequence[Case]) -> tuple[list[Transition], bool]:
        """Return every change between releases next to each other."""
        trains = evidence_for(self.settings.metric)[-1]
        usable = [
            version
            for version in self.releases.versions
            if self.releases.observe(version, cases, trains=trains) is not None
        ]
        if len(usable) < 2:  # noqa: PLR2004  (a pair is compared)
            why = "; ".join(self.releases.skipped.values())
            msg = f"fewer than two releases of {self.settings.package} can be measured: {why}"
            raise InputError(msg)
        self._check_absent([self._end(version, cases, trains=trains) for version in usable])
        found = (
            self._transition(old, new, cases, trains=trains)
            for old, new in itertools.pairwise(usable)
        )
        return [transition for transition in found if transition.comparison.findings], trains

    def _located(self, findings: Sequence[Finding], *, trains: bool) -> list[Transition]:
        """Bisect for each finding by its cheapest case; those of one release are told together."""
        versions = self.releases.versions
        examples = {
            finding: self._cheapest(finding, versions[0], trains=trains) for finding in findings
        }
        cases = [parse_case_id(name) for name in dict.fromkeys(examples.values())]
        first = self.releases.observe(versions[0], cases, trains=trains) or {}
        by_boundary: dict[tuple[int, int], set[str]] = {}
        for finding, name in examples.items():

            def changed(place: int, finding: Finding = finding, name: str = name) -> bool | None:
                observed = self.releases.observe(versions[place], cases, trains=trains)
                if observed is None:
                    return None
                return any(
                    _is_alike(other, finding)
                    for other in self._compared(
                        {name: first[name]}, {name: observed[name]}
                    ).findings
                )

            boundary = find_boundary(len(versions), changed)
            places = boundary.last_same, boundary.first_changed
            by_boundary.setdefault(places, set()).add(name)
        found = []
        for (low, high), names in sorted(by_boundary.items()):
            chosen = [parse_case_id(name) for name in sorted(names)]
            ends = versions[low], versions[high]
            transition = self._transition(*ends, chosen, trains=trains)
            if not transition.comparison.findings:
                # Small moves add up: what is beyond its bound is so against the first release.
                transition = self._transition(*ends, chosen, trains=trains, against=versions[0])
            found.append(transition)
        return found

    def _cheapest(self, finding: Finding, version: Version, *, trains: bool) -> str:
        """Return the case of a finding that has the fewest FLOPs a step."""
        known = self.releases.measured[version, trains]

        def flops(name: str) -> float:
            metric = known[name].record.metrics.get("forward_flops")
            return float("inf") if metric is None else metric.value

        return min(finding.cases, key=lambda name: (flops(name), name))

    def _transition(
        self,
        old: Version,
        new: Version,
        cases: Sequence[Case],
        *,
        trains: bool,
        against: Version | None = None,
    ) -> Transition:
        """Return what a release changes, compared with the one before it, or with another."""
        before = self.releases.observe(against or old, cases, trains=trains) or {}
        after = self.releases.observe(new, cases, trains=trains) or {}
        comparison = self._compared(before, after)
        versions = self.releases.versions
        between = versions[versions.index(old) + 1 : versions.index(new)]
        any_before, any_after = next(iter(before.values())), next(iter(after.values()))
        return Transition(
            old=old,
            new=new,
            between=tuple(between),
            comparison=comparison,
            changed=changed_packages(any_before.environment, any_after.environment),
            culprits=find_culprits(
                comparison.findings,
                self.releases.planned.get(old, ()),
                self.releases.planned.get(new, ()),
                before,
                base_requirements=self.releases.requirements_of(old),
                place=self.settings.place,
                say=self.say,
            ),
        )

    def _end(
        self, version: Version, cases: Sequence[Case], *, trains: bool
    ) -> dict[str, Observation]:
        observed = self.releases.observe(version, cases, trains=trains)
        if observed is None:
            why = self.releases.skipped[version]
            msg = f"{self.settings.package} {version} cannot be measured: {why}"
            raise InputError(msg)
        return observed

    def _compared(
        self, old: Mapping[str, Observation], new: Mapping[str, Observation]
    ) -> Comparison:
        """Return what differs between two releases, with the findings of the metric asked for."""
        comparison = judge(old, new)
        metric = self.settings.metric
        findings = tuple(
            finding
            for finding in comparison.findings
            if metric is None
            or any(
                reason.metric in {metric, _INVARIANT + metric}
                for member in finding.members
                for reason in member.reasons
            )
        )
        return replace(comparison, findings=findings)

    def _check_absent(self, ends: Sequence[Mapping[str, Observation]]) -> None:
        """Raise `AbsentError` where what is asked for is in no record of either end."""
        metric = self.settings.metric
        if metric is None or metric == "status":
            return
        known: set[str] = set()
        for end in ends:
            for observation in end.values():
                record = observation.record
                if record.status != "ok":
                    return  # it may appear, or vanish, with the state
                known |= record.metrics.keys() | record.invariants.keys()
        if metric not in known:
            msg = f"--metric {metric}: none of these cases has it, at either end"
            raise AbsentError(msg)


def _is_alike(one: Finding, other: Finding) -> bool:
    """Return whether two findings are of one kind; where a change is may differ on the way."""
    of_invariant = one.cause.strand == "invariant"
    return one.cause.strand == other.cause.strand and (
        not of_invariant or one.cause.what == other.cause.what
    )
