"""Measure the releases of one package on the cases that a search asks for, each once."""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Final

from packaging.version import InvalidVersion, Version

from peft_regress.cases import Case
from peft_regress.errors import AbsentError, InputError
from peft_regress.gate.repeats import completed, known_curves
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.overlay.overlay import ReplacesTorchError, opened_overlay
from peft_regress.overlay.pip import Planned, released_versions
from peft_regress.text import count_of
from peft_regress.upgrades.measuring import MeasuringSetup, measure_cases

_MOST_AT_ONCE: Final = 64
"""How many releases are measured at once by a cluster."""
_MOST_PREPARED: Final = 4
"""How many overlays are prepared here at once."""


class YankedError(InputError):
    """A release that its maintainers have withdrawn from the index."""


def releases_between(
    package: str, good: str, bad: str, *, pre: bool, seconds: float
) -> tuple[Version, ...]:
    """Return the releases from the good one to the bad one, in that order.

    Raises `InputError` if a text is not a version or both are the same, `AbsentError` if the index
    does not have a release, `PipError` if there is no index or no such package.
    """
    ends = [_version(text) for text in (good, bad)]
    if ends[0] == ends[1]:
        raise InputError(f"--good and --bad are both {good}: there is nothing between them")
    wants_pre = pre or any(end.is_prerelease for end in ends)
    known = released_versions(package, pre=wants_pre, seconds=seconds)
    for end in ends:
        if end not in known:
            names = [str(version) for version in known]
            close = difflib.get_close_matches(str(end), names, n=3) or names[-3:]
            raise AbsentError(
                f"the index has no {package} {end} for this Python, or it was yanked; near it: "
                f"{', '.join(close)}"
            )
    chosen = [v for v in known if min(ends) <= v <= max(ends)]
    if not pre:
        chosen = [v for v in chosen if not v.is_prerelease or v in ends]
    return tuple(chosen if ends[0] < ends[1] else reversed(chosen))


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        raise InputError(
            f"{text!r} is not a version: write it as `pip index versions PACKAGE` does"
        ) from None


@dataclass
class Releases:
    """The releases of a package; each case of each release is measured at most once."""

    package: str
    versions: tuple[Version, ...]
    setup: MeasuringSetup
    also_install: tuple[str, ...] = ()
    """Requirements of every environment, besides the release."""
    replace_torch: bool = False
    progress: Callable[[str], None] = lambda _: None
    skipped: dict[Version, str] = field(default_factory=dict)
    """Releases that cannot be installed or imported, with the reason."""
    measured: dict[tuple[Version, bool], dict[str, Observation]] = field(default_factory=dict)
    """By version and whether the cases trained; a case that repeats another release has its
    scores."""
    repeated: dict[Version, dict[str, str]] = field(default_factory=dict)
    """The cases that repeat another release, with the run whose training they repeat."""
    planned: dict[Version, tuple[Planned, ...]] = field(default_factory=dict)
    tried: list[Version] = field(default_factory=list)
    _preparing: threading.Semaphore = field(
        default_factory=lambda: threading.Semaphore(_MOST_PREPARED)
    )

    def observe(
        self, version: Version, cases: Sequence[Case], *, trains: bool
    ) -> dict[str, Observation] | None:
        """Return what a release measures for some cases; None if it cannot be used."""
        if version in self.skipped:
            return None
        known = self.measured.setdefault((version, trains), {})
        lacking = [case for case in cases if case.id not in known]
        if lacking:
            try:
                known.update(self._measure(version, lacking, trains=trains))
            except ReplacesTorchError:
                raise
            except InputError as error:
                self.skipped[version] = str(error)
                self.progress(f"{self.package} {version}: skipped ({error})")
                return None
        return {case.id: known[case.id] for case in cases}

    def measure_at_once(self, cases: Sequence[Case], *, trains: bool) -> None:
        """Measure all releases at the same time, if a cluster measures.

        None of them is then spared a training by another one.
        """
        pool = self.setup.pool
        if pool is None:
            return
        with ThreadPoolExecutor(min(_MOST_AT_ONCE, len(self.versions))) as threads:
            running = [
                threads.submit(self.observe, version, cases, trains=trains)
                for version in self.versions
            ]
            try:
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
                for one in done:
                    one.result()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                pool.stop()
                raise

    def requirements_of(self, version: Version) -> list[str]:
        """Return the requirements that the environment of a release is made of."""
        return [f"{self.package}=={version}", *self.also_install]

    def _measure(
        self, version: Version, cases: Sequence[Case], *, trains: bool
    ) -> dict[str, Observation]:
        what = "fine-tuning" if trains else "costs"
        self.progress(f"{self.package} {version}: {what} of {count_of(len(cases), 'case')}")
        with contextlib.ExitStack() as stack:
            opening = opened_overlay(
                self.requirements_of(version),
                replace_torch=self.replace_torch,
                seconds=self.setup.pip_seconds,
            )
            with self._preparing:
                overlay = stack.enter_context(opening)
            if any(one.name == self.package and one.is_yanked for one in overlay.planned):
                raise YankedError("yanked by its maintainers")
            self.planned[version] = overlay.planned
            nearest = self._nearest(version, cases) if trains else {}
            run = measure_cases(
                cases,
                python=overlay.python,
                planned=overlay.planned,
                setup=self.setup,
                trains=trains,
                known=known_curves(nearest),
            )
        lost = [case.id for case in cases if case.id not in run.cases]
        if lost:
            raise InputError(
                f"{count_of(len(lost), 'case')} lost with the nodes that measured: {lost[0]}"
            )
        if version not in self.tried:
            self.tried.append(version)
        observed = observations_of(run, f"{self.package} {version}")
        return {name: self._whole(version, one, nearest) for name, one in observed.items()}

    def _nearest(self, version: Version, cases: Sequence[Case]) -> dict[str, Observation]:
        """Return of each case the nearest release that trained it: it may compute the same."""
        here = self.versions.index(version)
        trained = sorted(
            (abs(self.versions.index(other) - here), other)
            for other, trains in list(self.measured)  # another thread may add to it
            if trains and other != version
        )
        found: dict[str, Observation] = {}
        for _, other in trained:
            for name, one in self.measured[other, True].items():
                if one.curves:
                    found.setdefault(name, one)
        return {case.id: found[case.id] for case in cases if case.id in found}

    def _whole(
        self, version: Version, observed: Observation, nearest: Mapping[str, Observation]
    ) -> Observation:
        """Return an observation with the scores of the training that it repeats."""
        record = observed.record
        if not record.is_repeat:
            return observed
        trained = nearest[record.case.id]
        name = self._trained_in(trained, record.case.id)
        self.repeated.setdefault(version, {})[record.case.id] = name
        return replace(observed, record=completed(record, trained.record)).as_reference

    def _trained_in(self, observed: Observation, case: str) -> str:
        """Return the run that trained what another release repeats, maybe from a third one."""
        names = {
            f"{self.package} {version}": cases[case]
            for version, cases in self.repeated.items()
            if case in cases
        }
        return names.get(observed.run_name, observed.run_name)
