"""Decide which defects were found, by what old releases' searches have found; keep the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from rediscovery_runs import Studied, replayed

from peft_regress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rediscovery_data import Issue, Known
    from rediscovery_runs import SearchState

    from peft_fuzz.search.findings import Finding

__all__ = ["RESULTS", "Decided", "Results", "Searched", "decide", "read_results"]

RESULTS: Final = Path(__file__).resolve().with_name("rediscovery_results.json")


class _Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the results."""


class Searched(_Result, frozen=True, kw_only=True):
    """The search of one release.

    Attributes:
        findings: How many there are, by their causes.
        mended: How many of them run without a failure on the release that mends most of the
            defects that were sought there; None for the newest release.
        newest: How many of them fail on the newest release, too.

    """

    release: str
    packages: dict[str, str]
    seconds: float
    lives: int
    findings: int
    mended: int | None
    newest: int


class Decided(_Result, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a defect was found.

    Attributes:
        name: Of the defect.
        state: `found`, `missed`, `beyond` the fuzzer, or `open`: its release was not searched.
        seconds: After how many of search the first fitting finding was there.
        finding: Its name.
        message: What failed.

    """

    name: str
    state: Literal["found", "missed", "beyond", "open"]
    seconds: float | None = None
    finding: str = ""
    message: str = ""


class Results(_Result, frozen=True, kw_only=True):
    """All results."""

    schema_version: Literal[1] = 1
    jobs: int
    searched: tuple[Searched, ...]
    issues: tuple[Decided, ...]
    defects: tuple[Decided, ...]


def read_results(path: Path) -> Results:
    """Read results. Raises `InputError` if there are none or they have another form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(
            f"{path}: {error}. Make them with `python fuzz/tools/rediscovery.py`."
        ) from error


def decide(known: Known, folder: Path, *, jobs: int, say: Callable[[str], None]) -> Results:
    """Decide for each defect, by what is in the folder of the searches."""
    newest = known.releases[-1]
    searched: list[Searched] = []
    states: dict[str, SearchState] = {}
    failures: dict[tuple[str, str], Mapping[str, str]] = {}
    for release in known.releases:
        studied = Studied(folder, release)
        state = studied.read_state()
        if not state.seconds:
            continue
        states[release] = state
        others = {one.mended for one in known.issue if one.broken == release} | {newest}
        for other in sorted(others - {release}):
            requirements = known.requirements(other)
            failures[release, other] = replayed(studied, requirements, release=other, say=say)
        searched.append(_searched(known, studied, state, failures, newest=newest))
    issues = tuple(_decided(one, folder, states, failures) for one in known.issue)
    defects = []
    for one in known.finding:
        fitting = {
            name: finding
            for name, finding in Studied(folder, one.release).findings().items()
            if one.is_shown_by(finding)
        }
        defects.append(_first(one.name, one.beyond, states.get(one.release), fitting))
    return Results(jobs=jobs, searched=tuple(searched), issues=issues, defects=tuple(defects))


def _searched(
    known: Known,
    studied: Studied,
    state: SearchState,
    failures: Mapping[tuple[str, str], Mapping[str, str]],
    *,
    newest: str,
) -> Searched:
    release = studied.release
    there = studied.findings()
    next_ones = {one.mended for one in known.issue if one.broken == release}
    silent = [failures[release, other] for other in next_ones]
    mended = {name for one in silent for name, failure in one.items() if not failure}
    still = failures.get((release, newest), {})
    return Searched(
        release=release,
        packages=state.packages,
        seconds=round(state.seconds, 1),
        lives=state.lives,
        findings=len(there),
        mended=len(mended) if silent else None,
        newest=len(there) if release == newest else sum(bool(one) for one in still.values()),
    )


def _decided(
    issue: Issue,
    folder: Path,
    states: Mapping[str, SearchState],
    failures: Mapping[tuple[str, str], Mapping[str, str]],
) -> Decided:
    later = failures.get((issue.broken, issue.mended), {})
    fitting = {
        name: finding
        for name, finding in Studied(folder, issue.broken).findings().items()
        if issue.is_shown_by(finding) and later.get(name) == ""
    }
    return _first(issue.name, issue.beyond, states.get(issue.broken), fitting)


def _first(
    name: str, beyond: str, state: SearchState | None, fitting: Mapping[str, Finding]
) -> Decided:
    if beyond:
        return Decided(name=name, state="beyond")
    if state is None:
        return Decided(name=name, state="open")
    if not fitting:
        return Decided(name=name, state="missed")
    first = min(fitting, key=lambda one: state.found.get(one, state.seconds))
    return Decided(
        name=name,
        state="found",
        seconds=round(state.found.get(first, state.seconds), 1),
        finding=first,
        message=fitting[first].failure.message[:200],
    )
