"""Find the release of a package in which the verdict on a case changes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from packaging.utils import canonicalize_name
from packaging.version import Version

from peft_regress.cases import Case
from peft_regress.catalogue.matrix import matrix_cases, parse_case_id, select_cases
from peft_regress.catalogue.sources import require_sources
from peft_regress.errors import AbsentError, InputError, UnknownNameError
from peft_regress.gate.attribution import COSTS
from peft_regress.gate.comparison import Comparison
from peft_regress.gate.findings import Finding
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import Observation
from peft_regress.metrics import INVARIANTS, METRICS
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.schema import Record
from peft_regress.upgrades.boundary import find_boundary
from peft_regress.upgrades.measuring import MeasuringSetup
from peft_regress.upgrades.releases import Releases, releases_between
from peft_regress.upgrades.responsible import ResponsiblePackages, find_responsible

_INVARIANT: Final = "invariant "


@dataclass(frozen=True, kw_only=True)
class BisectSettings:
    """What a bisection searches for, and among which releases."""

    package: str
    good: str
    bad: str
    setup: MeasuringSetup
    case: str | None = None
    """An id or a glob; None for one case per method and architecture."""
    metric: str | None = None
    """The metric or invariant whose change is searched for, or `status`; None for any."""
    matrix: str = "default"
    every: bool = False
    """Measure each release, and report each change."""
    pre: bool = False
    """Measure pre-releases too."""
    also_install: tuple[str, ...] = ()
    """Requirements of every environment, besides the release."""
    replace_torch: bool = False


@dataclass(frozen=True, kw_only=True)
class Transition:
    """A release that changes something, and the release before it."""

    old: Version
    new: Version
    between: tuple[Version, ...]
    """Releases between them that could not be measured."""
    comparison: Comparison
    """Only with the findings that contain the requested metric."""
    changed: Mapping[str, tuple[str | None, str | None]]
    """(old version, new version) of each package that changed."""
    responsible: tuple[ResponsiblePackages, ...]
    """Of each finding, which packages cause it; empty if only one package changed."""


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """The result of a bisection."""

    settings: BisectSettings
    versions: tuple[Version, ...]
    transitions: tuple[Transition, ...]
    skipped: Mapping[Version, str]
    """Releases that could not be measured, with the reason."""
    tried: tuple[Version, ...]
    cases: tuple[str, ...]
    """Ids."""
    trained: bool
    """Whether the cases were fine-tuned; otherwise costs showed a change."""
    repeated: Mapping[Version, Mapping[str, str]] = field(default_factory=dict)
    """The cases that a release did not train again, with the release whose training they repeat."""


def bisect(
    settings: BisectSettings, *, progress: Callable[[str], None] = lambda _: None
) -> Bisection:
    """Find the release, or with `every` each release, in which the verdict changes.

    Costs are compared first, since they need no training; the cases train only if the costs are
    the same at both ends. Raises `InputError` if an end cannot be measured, `AbsentError` for an
    absent release or metric, `UnknownNameError` for an unknown name.
    """
    check_metric(settings.metric)
    cases = chosen_cases(settings.case, matrix=settings.matrix)
    require_sources(settings.setup.baselines, cases)
    versions = releases_between(
        settings.package,
        settings.good,
        settings.bad,
        pre=settings.pre,
        seconds=settings.setup.pip_seconds,
    )
    releases = Releases(
        package=canonicalize_name(settings.package),
        versions=versions,
        setup=settings.setup,
        also_install=settings.also_install,
        replace_torch=settings.replace_torch,
        progress=progress,
    )
    search = _Search(settings=settings, releases=releases, progress=progress)
    found, trained = search.every(cases) if settings.every else search.first(cases)
    return Bisection(
        settings=settings,
        versions=versions,
        transitions=tuple(found),
        skipped=dict(releases.skipped),
        tried=tuple(version for version in versions if version in releases.tried),
        cases=tuple(case.id for case in cases),
        trained=trained,
        repeated=releases.repeated,
    )


@dataclass(frozen=True, kw_only=True)
class _Search:
    settings: BisectSettings
    releases: Releases
    progress: Callable[[str], None]

    def first(self, cases: Sequence[Case]) -> tuple[list[Transition], bool]:
        """Return the first release of each change between the two ends."""
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
        """Return every change between neighbouring releases."""
        trains = evidence_for(self.settings.metric)[-1]
        self.releases.measure_at_once(cases, trains=trains)
        usable = [
            version
            for version in self.releases.versions
            if self.releases.observe(version, cases, trains=trains) is not None
        ]
        if len(usable) < 2:  # noqa: PLR2004  (two are compared)
            why = "; ".join(self.releases.skipped.values())
            raise InputError(
                f"fewer than two releases of {self.settings.package} can be measured: {why}"
            )
        self._check_absent([self._end(version, cases, trains=trains) for version in usable])
        found = (
            self._transition(old, new, cases, trains=trains)
            for old, new in itertools.pairwise(usable)
        )
        return [transition for transition in found if transition.comparison.findings], trains

    def _located(self, findings: Sequence[Finding], *, trains: bool) -> list[Transition]:
        """Bisect for each finding by its cheapest case, and group the findings by release."""
        versions = self.releases.versions
        examples = {
            finding: self._cheapest(finding, versions[0], trains=trains) for finding in findings
        }
        cases = list(dict.fromkeys(examples.values()))
        first = self.releases.observe(versions[0], cases, trains=trains) or {}
        by_boundary: dict[tuple[int, int], set[Case]] = {}
        for finding, case in examples.items():

            def changed(index: int, finding: Finding = finding, name: str = case.id) -> bool | None:
                observed = self.releases.observe(versions[index], cases, trains=trains)
                if observed is None:
                    return None
                return any(
                    _is_alike(other, finding)
                    for other in self._compared(
                        {name: first[name]}, {name: observed[name]}
                    ).findings
                )

            boundary = find_boundary(len(versions), changed)
            ends = boundary.last_same, boundary.first_changed
            by_boundary.setdefault(ends, set()).add(case)
        found = []
        for (low, high), shown_by in sorted(by_boundary.items(), key=lambda item: item[0]):
            chosen = sorted(shown_by, key=lambda case: case.id)
            old, new = versions[low], versions[high]
            transition = self._transition(old, new, chosen, trains=trains)
            if not transition.comparison.findings:
                # Small changes add up: only against the first release they exceed the bound.
                transition = self._transition(old, new, chosen, trains=trains, against=versions[0])
            found.append(transition)
        return found

    def _cheapest(self, finding: Finding, version: Version, *, trains: bool) -> Case:
        """Return the case of a finding with the fewest FLOPs per step."""
        measured = self.releases.measured[version, trains]

        def flops(record: Record) -> float:
            metric = record.metrics.get("forward_flops")
            return float("inf") if metric is None else metric.value

        records = [measured[name].record for name in finding.cases]
        return min(records, key=lambda record: (flops(record), record.case.id)).case

    def _transition(
        self,
        old: Version,
        new: Version,
        cases: Sequence[Case],
        *,
        trains: bool,
        against: Version | None = None,
    ) -> Transition:
        """Return what a release changes against the one before it, or against another one."""
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
            responsible=find_responsible(
                comparison.findings,
                self.releases.planned.get(old, ()),
                self.releases.planned.get(new, ()),
                before,
                asked=[self.settings.package],
                base_requirements=self.releases.requirements_of(old),
                setup=self.settings.setup,
                progress=self.progress,
            ),
        )

    def _end(
        self, version: Version, cases: Sequence[Case], *, trains: bool
    ) -> dict[str, Observation]:
        observed = self.releases.observe(version, cases, trains=trains)
        if observed is None:
            why = self.releases.skipped[version]
            raise InputError(f"{self.settings.package} {version} cannot be measured: {why}")
        return observed

    def _compared(
        self, old: Mapping[str, Observation], new: Mapping[str, Observation]
    ) -> Comparison:
        """Compare two releases, and keep the findings that contain the requested metric."""
        comparison = judge(old, new)
        metric = self.settings.metric
        findings = tuple(
            finding
            for finding in comparison.findings
            # A budget may be exceeded at both ends: it does not say that anything changed.
            if finding.cause.strand != "budget"
            and (
                metric is None
                or any(
                    reason.metric in {metric, _INVARIANT + metric}
                    for member in finding.members
                    for reason in member.reasons
                )
            )
        )
        return replace(comparison, findings=findings)

    def _check_absent(self, ends: Sequence[Mapping[str, Observation]]) -> None:
        """Raise `AbsentError` if no record of either end has the requested metric."""
        metric = self.settings.metric
        if metric is None or metric == "status":
            return
        known: set[str] = set()
        for end in ends:
            for observation in end.values():
                record = observation.record
                if record.status != "ok":
                    return  # the metric may appear or disappear with the status
                known |= record.metrics.keys() | record.invariants.keys()
        if metric not in known:
            raise AbsentError(f"--metric {metric}: no case has it in any of these releases")


def _is_alike(one: Finding, other: Finding) -> bool:
    """Return whether two findings are alike: the same strand, in whichever layer."""
    of_invariant = one.cause.strand == "invariant"
    return one.cause.strand == other.cause.strand and (
        not of_invariant or one.cause.what == other.cause.what
    )


_PATTERN_CHARACTERS: Final = frozenset("*?[")


def chosen_cases(text: str | None, *, matrix: str) -> list[Case]:
    """Return the case of an id, the cases that match a glob, or one per method and architecture."""
    if text is None:
        return _one_each(matrix_cases(matrix))
    if _PATTERN_CHARACTERS & set(text):
        return select_cases(text, matrix=matrix)
    return [parse_case_id(text)]


def _one_each(cases: Iterable[Case]) -> list[Case]:
    """Return one case per method and architecture: the first task, the middle rank."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.method, case.architecture), []).append(case)
    chosen = []
    for group in groups.values():
        of_task = [case for case in group if case.task == group[0].task]
        chosen.append(of_task[len(of_task) // 2])
    return chosen


def check_metric(metric: str | None) -> None:
    """Raise `UnknownNameError` for a name that is no metric, no invariant and not `status`."""
    if metric is not None and metric not in METRICS and metric not in {*INVARIANTS, "status"}:
        kind = "metric or invariant"
        raise UnknownNameError(kind, metric, [*METRICS, *INVARIANTS, "status"])


def evidence_for(metric: str | None) -> tuple[bool, ...]:
    """Return whether to train, the cheapest way first."""
    if metric in {None, "status"}:
        # A case may fail after its first step.
        return (False, True)
    return (False,) if metric in COSTS else (True,)
