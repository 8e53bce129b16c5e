"""Measure the releases of one package, each once, on the cases that a search asks for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from peft_regress.environments.overlay.overlay import ReplacesTorchError, opened_overlay
from peft_regress.environments.overlay.pip import released_versions
from peft_regress.environments.upgrade.crew import measure_cases
from peft_regress.errors import AbsentError, InputError
from peft_regress.gate.verdicts import observations_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peft_regress.cases import Case
    from peft_regress.environments.overlay.pip import Planned
    from peft_regress.environments.upgrade.crew import MeasuringSetup
    from peft_regress.gate.verdicts import Observation

__all__ = ["Releases", "YankedError", "releases_between"]


class YankedError(InputError):
    """A release that its maintainers have withdrawn."""


def releases_between(
    package: str, good: str, bad: str, *, pre: bool, seconds: float
) -> tuple[Version, ...]:
    """Return the releases from the good one to the bad one, in that order.

    Raises `InputError` for what is no version or one and the same, `AbsentError` for a release that
    the index does not have, `PipError` where there is no index or no such package.
    """
    ends = [_version(text) for text in (good, bad)]
    if ends[0] == ends[1]:
        msg = f"--good and --bad are both {good}: there is nothing between them"
        raise InputError(msg)
    wants_pre = pre or any(end.is_prerelease for end in ends)
    known = released_versions(package, pre=wants_pre, seconds=seconds)
    for end in ends:
        if end not in known:
            names = [str(version) for version in known]
            close = difflib.get_close_matches(str(end), names, n=3) or names[-3:]
            msg = (
                f"the index has no {package} {end} for this Python, or it was yanked; near it: "
                f"{', '.join(close)}"
            )
            raise AbsentError(msg)
    chosen = [v for v in known if min(ends) <= v <= max(ends)]
    if not pre:
        chosen = [v for v in chosen if not v.is_prerelease or v in ends]
    return tuple(chosen if ends[0] < ends[1] else reversed(chosen))


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        msg = f"{text!r} is no version: write it as in `pip index versions PACKAGE`"
        raise InputError(msg) from None


@dataclass
class Releases:
    """The releases of a package as they are measured, each case of each at most once.

    beside: requirements that hold in each environment, next to the release. skipped: what cannot be
    installed or imported, with the reason.
    """

    package: str
    versions: tuple[Version, ...]
    place: MeasuringSetup
    beside: tuple[str, ...] = ()
    replace_torch: bool = False
    say: Callable[[str], None] = lambda _: None
    skipped: dict[Version, str] = field(default_factory=dict)
    measured: dict[tuple[Version, bool], dict[str, Observation]] = field(default_factory=dict)
    planned: dict[Version, tuple[Planned, ...]] = field(default_factory=dict)
    tried: list[Version] = field(default_factory=list)

    def observe(
        self, version: Version, cases: Sequence[Case], *, trains: bool
    ) -> dict[str, Observation] | None:
        """Return what a release measures for some cases; None where it cannot be used."""
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
                self.say(f"{self.package} {version}: skipped ({error})")
                return None
        return {case.id: known[case.id] for case in cases}

    def requirements_of(self, version: Version) -> list[str]:
        """Return what the environment of a release is asked to have."""
        return [f"{self.package}=={version}", *self.beside]

    def _measure(
        self, version: Version, cases: Sequence[Case], *, trains: bool
    ) -> dict[str, Observation]:
        what = "fine-tuning" if trains else "costs"
        self.say(f"{self.package} {version}: {what} of {len(cases)} case(s)")
        with opened_overlay(
            self.requirements_of(version),
            replace_torch=self.replace_torch,
            seconds=self.place.pip_seconds,
        ) as overlay:
            if any(one.name == self.package and one.is_yanked for one in overlay.planned):
                msg = "yanked by its maintainers"
                raise YankedError(msg)
            self.planned[version] = overlay.planned
            run = measure_cases(cases, python=overlay.python, place=self.place, trains=trains)
        if version not in self.tried:
            self.tried.append(version)
        return observations_of(run, f"{self.package} {version}")
