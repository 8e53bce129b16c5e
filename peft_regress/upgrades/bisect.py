"""Find the release of a package in which the verdict on a case changes."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

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
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.invariants import INVARIANTS
from peft_regress.metrics import METRICS
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.overlay.pip import Planned, parse_version, released_versions
from peft_regress.project.script import Script
from peft_regress.runner.measuring import MeasuringSetup, measure_cases
from peft_regress.runs.environment import changed_packages
from peft_regress.text import count_of
from peft_regress.upgrades.functions import FoundFunction, find_functions
from peft_regress.upgrades.responsible import Observations, ResponsiblePackages, find_responsible
from peft_regress.workers.pool import Environment


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
    also_install: tuple[str, ...] = ()
    """Requirements of every environment, besides the release."""
    function: bool = True
    """Whether to search for the function that causes each finding."""


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
    responsible: tuple[ResponsiblePackages, ...] = ()
    """Of each finding, which packages cause it; empty if only one package changed."""
    functions: tuple[FoundFunction, ...] = ()
    """Of each finding, the function that causes it; empty if none was searched for."""


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
    was_interrupted: bool = False
    """Whether Ctrl-C ended the search for the responsible packages, or functions."""


def bisect(
    settings: BisectSettings, *, progress: Callable[[str], None] = lambda _: None
) -> Bisection:
    """Find the releases between a good and a bad one in which the verdict changes.

    Costs are compared first, since they need no training; the cases train only if the costs are
    the same at both ends. Scripts have both from one run. Raises `InputError` if an end cannot be
    measured, `AbsentError` for an absent release or metric and if no case runs at either end,
    `UnknownNameError` for an unknown name.
    """
    metric = settings.metric
    if metric is not None and metric not in {*METRICS, *INVARIANTS, "status"}:
        kind = "metric or invariant"
        raise UnknownNameError(kind, metric, [*METRICS, *INVARIANTS, "status"])
    cases = _chosen_cases(settings.case, matrix=settings.matrix)
    require_sources(settings.setup.baselines, cases)
    search = _Search(settings=settings, versions=releases_between(settings), progress=progress)
    transitions = search.first(cases)
    tried = {version for version, _ in search.measured}
    found = Bisection(
        settings=settings,
        versions=search.versions,
        transitions=tuple(transitions),
        skipped=search.skipped,
        tried=tuple(version for version in search.versions if version in tried),
        cases=tuple(case.id for case in cases),
        trained=search.trains,
    )
    for one in transitions:
        progress(f"{settings.package} {one.new} changes what {one.old} does")
    try:
        for index, one in enumerate(transitions):
            transitions[index] = search.with_responsible(one)
            if settings.function:
                transitions[index] = search.with_functions(transitions[index])
            found = replace(found, transitions=tuple(transitions))
    except KeyboardInterrupt:
        return replace(found, was_interrupted=True)
    return found


@dataclass(kw_only=True)
class _Search:
    """The releases of a package; each case of each release is measured at most once."""

    settings: BisectSettings
    versions: tuple[Version, ...]
    progress: Callable[[str], None]
    trains: bool = False
    """Whether the cases train; else their costs alone are compared."""
    measured: dict[tuple[Version, bool], dict[str, Observation]] = field(default_factory=dict)
    """By version and whether the cases trained."""
    skipped: dict[Version, str] = field(default_factory=dict)
    planned: dict[Version, tuple[Planned, ...]] = field(default_factory=dict)
    loaded: dict[str, Collection[str]] = field(default_factory=dict)
    """The packages of which a case has loaded a module, by case."""

    def first(self, cases: Sequence[Case]) -> list[Transition]:
        """Return the first release of each change between the ends."""
        metric, ends = self.settings.metric, (self.versions[0], self.versions[-1])
        own = self.settings.setup.project.cases()
        are_scripts = all(isinstance(own.get(case.id), Script) for case in cases)
        # A case may fail after its first step.
        may_be_either = metric in {None, "status"} and not are_scripts
        for trains in [False, True] if may_be_either else [metric not in COSTS]:
            self.trains = trains
            old, new = (self._end(version, cases) for version in ends)
            self._check_absent((*old.values(), *new.values()))
            findings = self._compared(old, new).findings
            if findings:
                return self._located(findings, old)
        return []

    def _observe(self, version: Version, cases: Sequence[Case]) -> dict[str, Observation] | None:
        """Return what a release measures for some cases; None if it cannot be used."""
        known = self.measured.get((version, self.trains), {})
        lacking = [case for case in cases if case.id not in known]
        if version in self.skipped:
            return None
        if lacking:
            try:
                known |= self._measure(version, lacking)
            except InputError as error:
                self.skipped[version] = str(error)
                self.progress(f"{self._name} {version}: skipped ({error})")
                return None
            self.measured[version, self.trains] = known
        return {case.id: known[case.id] for case in cases}

    @property
    def _name(self) -> str:
        return canonicalize_name(self.settings.package)

    def _requirements(self, version: Version) -> list[str]:
        return [f"{self._name}=={version}", *self.settings.also_install]

    def _measure(self, version: Version, cases: Sequence[Case]) -> dict[str, Observation]:
        settings, what = self.settings, "fine-tuning" if self.trains else "costs"
        self.progress(f"{self._name} {version}: {what} of {count_of(len(cases), 'case')}")
        wanted = self._requirements(version)
        with opened_overlay(wanted, settings.setup.pip) as overlay:
            if any(one.name == self._name and one.is_yanked for one in overlay.planned):
                raise InputError("yanked by its maintainers")
            self.planned[version] = overlay.planned
            run = measure_cases(
                cases,
                python=overlay.python,
                planned=overlay.planned,
                setup=settings.setup,
                trains=self.trains,
                loaded=self.loaded,
            )
        lost = [case.id for case in cases if case.id not in run.cases]
        if lost:
            raise InputError(
                f"{count_of(len(lost), 'case')} lost with the nodes that measured: {lost[0]}"
            )
        return dict(observations_of(run, f"{self._name} {version}"))

    def _end(self, version: Version, cases: Sequence[Case]) -> dict[str, Observation]:
        observed = self._observe(version, cases)
        if observed is None:
            why = self.skipped[version]
            raise InputError(f"{self.settings.package} {version} cannot be measured: {why}")
        return observed

    def _located(self, findings: Sequence[Finding], first: Observations) -> list[Transition]:
        """Bisect for each finding by its cheapest case, and group the findings by release."""
        examples = {finding: _cheapest(finding, first) for finding in findings}
        cases = list(dict.fromkeys(examples.values()))
        by_boundary: dict[tuple[int, int], set[Case]] = {}
        for finding, case in examples.items():

            def changed(index: int, finding: Finding = finding, name: str = case.id) -> bool | None:
                observed = self._observe(self.versions[index], cases)
                if observed is None:
                    return None
                compared = self._compared({name: first[name]}, {name: observed[name]})
                return any(_is_alike(other, finding) for other in compared.findings)

            boundary = find_boundary(len(self.versions), changed)
            by_boundary.setdefault(boundary, set()).add(case)
        found = []
        for (low, high), shown_by in sorted(by_boundary.items(), key=lambda item: item[0]):
            chosen = sorted(shown_by, key=lambda case: case.id)
            after = self._end(self.versions[high], chosen)
            # Small changes may add up: then only against the first release they exceed the bound.
            for base in (low, 0):
                before = self._end(self.versions[base], chosen)
                comparison = self._compared(before, after)
                if comparison.findings:
                    break
            sides = (next(iter(side.values())).environment for side in (before, after))
            found.append(
                Transition(
                    old=self.versions[low],
                    new=self.versions[high],
                    between=self.versions[low + 1 : high],
                    comparison=comparison,
                    changed=changed_packages(*sides),
                )
            )
        return found

    def with_responsible(self, transition: Transition) -> Transition:
        """Return a transition with each package that changed tried by itself."""
        responsible = find_responsible(
            transition.comparison.findings,
            self.planned[transition.old],
            self.planned[transition.new],
            transition.comparison.references,
            asked=[self.settings.package],
            base_requirements=self._requirements(transition.old),
            loaded=self.loaded,
            same_files=True,
            setup=self.settings.setup,
            progress=self.progress,
        )
        return replace(transition, responsible=responsible)

    def with_functions(self, transition: Transition) -> Transition:
        """Return a transition with the search for the function of each finding."""
        pip, name = self.settings.setup.pip, self._name
        findings, responsible = transition.comparison.findings, transition.responsible
        with ExitStack() as stack:
            old, new = (
                stack.enter_context(opened_overlay(self._requirements(version), pip))
                for version in (transition.old, transition.new)
            )
            searched = find_functions(
                findings,
                transition.comparison.references,
                [one.names or (name,) for one in responsible] or [(name,)] * len(findings),
                transition.changed,
                (Environment(python=old.python), Environment(python=new.python)),
                setup=self.settings.setup,
                progress=self.progress,
            )
        return replace(transition, functions=searched)

    def _compared(self, old: Observations, new: Observations) -> Comparison:
        """Compare two releases, and keep the findings that contain the requested metric."""
        comparison, metric = judge(old, new, same_files=True), self.settings.metric
        findings = tuple(
            finding
            for finding in comparison.findings
            # A budget may be exceeded at both ends: it does not say that anything changed.
            if finding.cause.strand != "budget"
            and (
                metric is None or any(metric in {one.kind, one.subject} for one in finding.reasons)
            )
        )
        return replace(comparison, findings=findings)

    def _check_absent(self, observed: Sequence[Observation]) -> None:
        """Raise `AbsentError` if no record of either end is usable or has the requested metric."""
        metric, records = self.settings.metric, [one.record for one in observed]
        errors = [record.error for record in records if record.error is not None]
        if len(errors) == len(records):
            error = f"{errors[0].type}: {errors[0].message}"
            raise AbsentError(f"no case runs in either release ({error}); --with adds packages")
        # The metric may appear or disappear with the status.
        if metric in {None, "status"} or any(record.status != "ok" for record in records):
            return
        if not any(metric in {*record.metrics, *record.invariants} for record in records):
            raise AbsentError(f"--metric {metric}: no case has it in any of these releases")


def _cheapest(finding: Finding, measured: Observations) -> Case:
    """Return the case of a finding with the fewest FLOPs per step."""

    def flops(name: str) -> tuple[float, str]:
        found = measured[name].record.value_of("forward_flops")
        return float("inf") if found is None else found, name

    return measured[min(finding.cases, key=flops)].record.case


def _is_alike(one: Finding, other: Finding) -> bool:
    """Return whether two findings are alike: the same strand, in whichever layer."""
    return one.cause.strand == other.cause.strand and (
        one.cause.strand != "invariant" or one.cause.what == other.cause.what
    )


def releases_between(settings: BisectSettings) -> tuple[Version, ...]:
    """Return the releases from the good one to the bad one, in that order.

    Raises `InputError` if a text is not a version or both are the same, `AbsentError` if the index
    does not have a release, `PipError` if there is no index or no such package.
    """
    remedy = "is not a version: write it as `pip index versions PACKAGE` does"
    texts = (settings.good, settings.bad)
    good, bad = ends = [parse_version(text, f"{text!r} {remedy}") for text in texts]
    if good == bad:
        raise InputError(
            f"--good and --bad are both {settings.good}: there is nothing between them"
        )
    pip = replace(settings.setup.pip, pre=any(end.is_prerelease for end in ends))
    known = released_versions(settings.package, pip)
    for end in ends:
        if end not in known:
            names = [str(version) for version in known]
            close = difflib.get_close_matches(str(end), names, n=3) or names[-3:]
            raise AbsentError(
                f"the index has no {settings.package} {end} for this Python, or it was yanked; "
                f"near it: {', '.join(close)}"
            )
    chosen = [one for one in known if min(ends) <= one <= max(ends)]
    chosen = [one for one in chosen if not one.is_prerelease or one in ends]
    return tuple(chosen if good < bad else reversed(chosen))


def _chosen_cases(text: str | None, *, matrix: str) -> list[Case]:
    """Return the case of an id, the cases that match a glob, or one per method and architecture."""
    if text is not None:
        is_glob = any(character in text for character in "*?[")
        return select_cases(text, matrix=matrix) if is_glob else [parse_case_id(text)]
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in matrix_cases(matrix):
        groups.setdefault((case.method, case.architecture), []).append(case)
    chosen = []
    for group in groups.values():
        # The first task, the middle rank.
        of_task = [case for case in group if case.task == group[0].task]
        chosen.append(of_task[len(of_task) // 2])
    return chosen


def find_boundary(count: int, changed: Callable[[int], bool | None]) -> tuple[int, int]:
    """Bisect `count` positions; the last one is known to differ from the first one.

    `changed` returns whether a position differs from the first one, or None if it cannot be tested;
    then the positions next to it are tested, the nearest first. Each position is tested at most
    once: with n positions between the ends, at most log2(n) + 1 tests if all can be tested.

    Returns the last position that is like the first one, and the first that is not. Positions
    between them could not be tested: one of them may be the first to change.
    """
    low, high = 0, count - 1
    untested: set[int] = set()
    while candidates := [index for index in range(low + 1, high) if index not in untested]:
        middle = (low + high) / 2
        index = min(candidates, key=lambda one: (abs(one - middle), one))
        verdict = changed(index)
        if verdict is None:
            untested.add(index)
        elif verdict:
            high = index
        else:
            low = index
    return low, high
