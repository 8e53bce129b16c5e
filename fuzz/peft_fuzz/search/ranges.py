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
from peft_fuzz.search.replay import Replay, Replayed
from peft_regress.errors import InputError
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.overlay.pip import PipError, released_versions
from peft_regress.text import clean, count_of
from peft_regress.upgrades.boundary import find_boundary

PACKAGE: Final = "peft"
OLDEST: Final = Version("0.10.0")
"""The first release that the fuzzer supports."""


Answer: TypeAlias = bool | str
"""Of a finding in a release: whether it fails, or why nobody knows."""


@dataclass
class Ranges:
    """The releases of peft, from 0.10.0 to the fuzzed one, in which each finding fails.

    Attributes:
        requirements: Of the environment that was fuzzed: those of other packages hold in each
            release's environment, too.
        versions: The releases to try; the last one is the fuzzed one.
        answers: What the releases that were opened say of each finding.
        problem: Why there is no range: no index.

    """

    findings: Sequence[Finding]
    requirements: Sequence[str]
    life_seconds: float
    pip_seconds: float
    say: Callable[[str], None]
    versions: list[Version] = field(default_factory=list)
    answers: dict[Version, dict[str, Answer]] = field(default_factory=dict)
    problem: str = ""

    def find(self, fuzzed: str) -> None:
        """Try releases until the newest boundary of each finding is known."""
        try:
            newest = Version(fuzzed)
            known = released_versions(PACKAGE, seconds=self.pip_seconds)
        except InvalidVersion:
            self.problem = f"{fuzzed!r} is no release of {PACKAGE}"
            return
        except PipError as error:
            self.problem = str(error)
            return
        older = [version for version in known if OLDEST <= version < newest]
        count = count_of(len(self.findings), "finding")
        self.say(f"trying {count} in up to {len(older)} older releases")
        self.versions = [*older, newest]
        self.answers[newest] = {one.name: True for one in self.findings}
        for finding in self.findings:
            self._bisect(finding.name)

    def of(self, name: str) -> Range | None:
        """Return what is known of a finding, from all releases that were opened for any."""
        if self.problem or not self.versions:
            return None
        known = self._known(name)
        first, last_good = _ends(known)
        unknown = {v: self.answers[v][name] for v in sorted(self.answers) if v not in known}
        between = [v for v in self.versions if last_good is not None and last_good < v < first]
        return Range(
            package=PACKAGE,
            failing=tuple(str(version) for version in sorted(known) if known[version]),
            passing=tuple(str(version) for version in sorted(known) if not known[version]),
            first=str(first),
            last_good=None if last_good is None else str(last_good),
            between=tuple(map(str, between)),
            undecided={str(version): str(why) for version, why in unknown.items()},
        )

    def _bisect(self, name: str) -> None:
        for version in self.versions[:-1]:
            if self._fails(version, name) is not None:
                break  # the oldest one that can be used
        while True:
            first, last_good = _ends(self._known(name))
            span = [v for v in self.versions if last_good is not None and last_good <= v <= first]
            if all(version in self.answers for version in span):
                return
            find_boundary(len(span), lambda at, span=span: self._fails(span[at], name))  # type: ignore[misc]

    def _fails(self, version: Version, name: str) -> bool | None:
        """Return whether a finding fails in a release; None if it cannot be told."""
        if version not in self.answers:
            self.answers[version] = self._open_and_run(version)
        found = self.answers[version][name]
        return None if isinstance(found, str) else found

    def _known(self, name: str) -> dict[Version, bool]:
        """Return the releases of which is known whether a finding fails in them."""
        return {
            version: answer
            for version, answers in self.answers.items()
            if isinstance(answer := answers[name], bool)
        }

    def _open_and_run(self, version: Version) -> dict[str, Answer]:
        self.say(f"{PACKAGE} {version}: running {count_of(len(self.findings), 'example')}")
        wanted = [f"{PACKAGE}=={version}", *_without_package(self.requirements)]
        done = Replay(findings=self.findings)
        try:
            with opened_overlay(wanted, seconds=self.pip_seconds) as overlay:
                done.run(overlay.python, life_seconds=self.life_seconds)
        except InputError as error:
            self.say(f"{PACKAGE} {version}: skipped ({clean(str(error), longest=200)})")
            return {one.name: UNUSABLE for one in self.findings}
        return {one.finding.name: _answer(one) for one in done.entries}


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


def _ends(known: dict[Version, bool]) -> tuple[Version, Version | None]:
    """Return since which release a finding fails, and the last good one before it."""
    last_good = max((version for version, fails in known.items() if not fails), default=None)
    failing = [version for version, fails in known.items() if fails]
    return min(v for v in failing if last_good is None or v > last_good), last_good


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
