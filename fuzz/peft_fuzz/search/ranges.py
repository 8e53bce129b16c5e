"""Find the releases in which findings fail, by running their examples in as few as possible.

A bisection knows one change from good to bad. A defect may have been mended and come back: the
range says in which tried releases it fails, and releases between two of them may still differ.
Each release is opened once, and every example runs in it: that costs milliseconds beside the
seconds of importing a release, and shows gaps that a single bisection would miss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from peft_fuzz.search.findings import UNUSABLE, Finding, Range
from peft_fuzz.search.replay import Replayed, replay
from peft_regress.errors import InputError
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.overlay.pip import PipError, released_versions
from peft_regress.text import clean, count_of
from peft_regress.upgrades.boundary import find_boundary

PACKAGE: Final = "peft"
OLDEST: Final = Version("0.10.0")
"""The first release that the fuzzer supports."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The range of each finding, by its name."""

    of: dict[str, Range]
    problem: str = ""
    """Why there is none: no index."""


class InterruptedRanges(KeyboardInterrupt):
    """An interrupt while releases were tried."""

    def __init__(self, ranges: Ranges) -> None:
        super().__init__()
        self.ranges = ranges
        """What is known; releases that were not tried are named where one may be the first."""


Answer: TypeAlias = bool | str
"""Of a finding in a release: whether it fails, or why nobody knows."""


@dataclass
class _Tried:
    """What the releases that were opened say of each finding."""

    findings: Sequence[Finding]
    open_and_run: Callable[[Version], dict[str, Answer]]
    answers: dict[Version, dict[str, Answer]] = field(default_factory=dict)

    def ask(self, version: Version, name: str) -> bool | None:
        """Return whether a finding fails in a release; None if it cannot be told."""
        if version not in self.answers:
            self.answers[version] = self.open_and_run(version)
        found = self.answers[version][name]
        return None if isinstance(found, str) else found


def find_ranges(  # noqa: PLR0913  (each is one setting)
    findings: Sequence[Finding],
    *,
    requirements: Sequence[str],
    fuzzed: str,
    life_seconds: float,
    pip_seconds: float,
    say: Callable[[str], None],
) -> Ranges:
    """Find the releases of peft, from 0.10.0 to the fuzzed one, in which each finding fails.

    `requirements` are those of the environment that was fuzzed: those of other packages hold in
    each release's environment, too. Raises `InterruptedRanges` with what is known.
    """
    try:
        newest = Version(fuzzed)
        known = released_versions(PACKAGE, seconds=pip_seconds)
    except InvalidVersion:
        return Ranges(of={}, problem=f"{fuzzed!r} is no release of {PACKAGE}")
    except PipError as error:
        return Ranges(of={}, problem=str(error))
    older = [version for version in known if OLDEST <= version < newest]
    others = _without_package(requirements)
    say(f"trying {count_of(len(findings), 'finding')} in up to {len(older)} older releases")

    def open_and_run(version: Version) -> dict[str, Answer]:
        say(f"{PACKAGE} {version}: running {count_of(len(findings), 'example')}")
        try:
            with opened_overlay([f"{PACKAGE}=={version}", *others], seconds=pip_seconds) as overlay:
                done = replay(findings, overlay.python, life_seconds=life_seconds)
        except InputError as error:
            say(f"{PACKAGE} {version}: skipped ({clean(str(error), longest=200)})")
            return {one.name: UNUSABLE for one in findings}
        return {one.finding.name: _answer(one) for one in done.entries}

    versions = [*older, newest]
    tried = _Tried(findings, open_and_run)
    tried.answers[newest] = {one.name: True for one in findings}
    try:
        for finding in findings:
            _bisect(finding.name, versions, tried)
    except KeyboardInterrupt:
        known_ranges = {one.name: _range(one.name, versions, tried) for one in findings}
        raise InterruptedRanges(Ranges(of=known_ranges)) from None
    return Ranges(of={one.name: _range(one.name, versions, tried) for one in findings})


def _answer(one: Replayed) -> Answer:
    """Return whether an example fails by its own check, or why that cannot be told."""
    match one.state:
        case "still there":
            return True
        case "mended" | "absent":
            return False
        case "not replayed":
            return UNUSABLE
    failure = None if one.outcome is None else one.outcome.failure
    return "fails otherwise" if failure is None else f"fails by the check {failure.check}"


def _bisect(name: str, versions: Sequence[Version], tried: _Tried) -> None:
    """Try releases until the newest boundary of a finding is known; the last one fails."""
    for version in versions[:-1]:
        if tried.ask(version, name) is not None:
            break  # the oldest one that can be used
    while True:
        known = _known(name, tried)
        first, last_good = _ends(known)
        span = [v for v in versions if last_good is not None and last_good <= v <= first]
        if all(version in tried.answers for version in span):
            return
        find_boundary(len(span), lambda at, span=span: tried.ask(span[at], name))  # type: ignore[misc]


def _known(name: str, tried: _Tried) -> dict[Version, bool]:
    """Return the releases of which is known whether a finding fails in them."""
    return {
        version: answer
        for version, answers in tried.answers.items()
        if isinstance(answer := answers[name], bool)
    }


def _ends(known: dict[Version, bool]) -> tuple[Version, Version | None]:
    """Return since which release a finding fails, and the last good one before it."""
    last_good = max((version for version, fails in known.items() if not fails), default=None)
    failing = [version for version, fails in known.items() if fails]
    return min(v for v in failing if last_good is None or v > last_good), last_good


def _range(name: str, versions: Sequence[Version], tried: _Tried) -> Range:
    """Return what is known of a finding, from all releases that were opened for any."""
    known = _known(name, tried)
    first, last_good = _ends(known)
    unknown = {v: tried.answers[v][name] for v in sorted(tried.answers) if v not in known}
    between = [v for v in versions if v < first and (last_good is None or last_good < v)]
    return Range(
        package=PACKAGE,
        failing=tuple(str(version) for version in sorted(known) if known[version]),
        passing=tuple(str(version) for version in sorted(known) if not known[version]),
        first=str(first),
        last_good=None if last_good is None else str(last_good),
        between=tuple(map(str, between if last_good is not None else [])),
        undecided={str(version): str(why) for version, why in unknown.items()},
    )


def _without_package(requirements: Sequence[str]) -> list[str]:
    """Return the requirements that are of another package."""
    others = []
    for text in requirements:
        try:
            name = canonicalize_name(Requirement(text).name)
        except InvalidRequirement:
            continue  # a wheel or a checkout: of peft, or pip finds its packages elsewhere
        if name != PACKAGE:
            others.append(text)
    return others
