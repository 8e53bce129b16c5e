"""Find the releases in which findings fail, by running their examples in as few as possible.

A bisection knows one change from good to bad. A defect may have been mended and come back: the
range says in which tried releases it fails, and releases between two of them may still differ.
Each release is opened once, and every example runs in it: that costs milliseconds beside the
seconds of importing a release, and shows gaps that a single bisection would miss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from peft_regress.environments.overlay.overlay import opened_overlay
from peft_regress.environments.overlay.pip import PipError, released_versions
from peft_regress.environments.upgrade.boundary import find_boundary
from peft_regress.errors import InputError
from peft_regress.fuzz.findings import Range
from peft_regress.fuzz.replay import replay
from peft_regress.text import clean, count_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peft_regress.fuzz.findings import Finding

PACKAGE: Final = "peft"
OLDEST: Final = Version("0.10.0")
"""The first release that the fuzzer supports."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The range of each finding, by its name."""

    of: dict[str, Range]
    problem: str = ""
    """Why there is none: no index."""


@dataclass
class _Tried:
    """What the releases that were opened say of each finding."""

    findings: Sequence[Finding]
    open_and_run: Callable[[Version], dict[str, bool] | None]
    fails: dict[Version, dict[str, bool] | None] = field(default_factory=dict)

    def ask(self, version: Version, name: str) -> bool | None:
        """Return whether a finding fails in a release; None if the release cannot be used."""
        if version not in self.fails:
            self.fails[version] = self.open_and_run(version)
        found = self.fails[version]
        return None if found is None else found.get(name)


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
    each release's environment, too.
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

    def open_and_run(version: Version) -> dict[str, bool] | None:
        say(f"{PACKAGE} {version}: running {count_of(len(findings), 'example')}")
        try:
            with opened_overlay([f"{PACKAGE}=={version}", *others], seconds=pip_seconds) as overlay:
                done = replay(findings, overlay.python, life_seconds=life_seconds)
        except InputError as error:
            say(f"{PACKAGE} {version}: skipped ({clean(str(error), longest=200)})")
            return None
        return {
            one.finding.name: one.state == "still there"
            for one in done.entries
            if one.state != "not replayed"
        }

    tried = _Tried(findings, open_and_run)
    for finding in findings:
        _bisect(finding.name, [*older, newest], tried)
    return Ranges(of={one.name: _range(one.name, [*older, newest], tried) for one in findings})


def _bisect(name: str, versions: Sequence[Version], tried: _Tried) -> None:
    """Try releases until the newest boundary of a finding is known; the last one fails."""
    tried.fails.setdefault(versions[-1], {})
    for version in versions[:-1]:
        if tried.ask(version, name) is not None:
            break  # the oldest one that can be used
    while True:
        known = _known(name, versions, tried)
        first, last_good = _ends(known)
        span = [v for v in versions if last_good is not None and last_good <= v <= first]
        if all(version in tried.fails for version in span):
            return
        find_boundary(len(span), lambda at, span=span: tried.ask(span[at], name))  # type: ignore[misc]


def _known(name: str, versions: Sequence[Version], tried: _Tried) -> dict[Version, bool]:
    """Return the releases of which is known whether a finding fails in them."""
    known = {
        version: found[name]
        for version in versions[:-1]
        if (found := tried.fails.get(version)) is not None and name in found
    }
    return {**known, versions[-1]: True}


def _ends(known: dict[Version, bool]) -> tuple[Version, Version | None]:
    """Return since which release a finding fails, and the last good one before it."""
    last_good = max((version for version, fails in known.items() if not fails), default=None)
    failing = [version for version, fails in known.items() if fails]
    return min(v for v in failing if last_good is None or v > last_good), last_good


def _range(name: str, versions: Sequence[Version], tried: _Tried) -> Range:
    """Return what is known of a finding, from all releases that were opened for any."""
    known = _known(name, versions, tried)
    first, last_good = _ends(known)
    between = [v for v in versions if last_good is not None and last_good < v < first]
    return Range(
        package=PACKAGE,
        failing=tuple(str(version) for version in sorted(known) if known[version]),
        passing=tuple(str(version) for version in sorted(known) if not known[version]),
        first=str(first),
        last_good=None if last_good is None else str(last_good),
        between=tuple(map(str, between)),
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
