"""Load a saved adapter in a range of releases, and judge each by the release that saved it."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from packaging.version import Version

from peft_regress.errors import AbsentError, InputError
from peft_regress.overlay.overlay import ReplacesTorchError, opened_overlay
from peft_regress.overlay.pip import PipError, parse_version, released_versions
from peft_regress.project.settings import Pip
from peft_regress.upgrades.compat import judging
from peft_regress.upgrades.compat.adapter import CONFIGURATION, SavedAdapter
from peft_regress.upgrades.compat.releases import (
    LOADING_SECONDS,
    BaseModel,
    BaseModelError,
    Seen,
    try_adapters,
)
from peft_regress.workers.pool import LocalPool, UnusableEnvironmentError, default_jobs

_BY_DEFAULT: Final = "0.10.0.."
_DOTS: Final = ".."


@dataclass(frozen=True, kw_only=True)
class CompatSettings:
    """Which releases of peft load the adapter, on what, and how."""

    base: BaseModel
    releases: str | None = None
    """See `chosen_releases`; by default the last patch of each minor release."""
    saved_by: str | None = None
    """By default what the adapter's configuration says."""
    also_install: tuple[str, ...] = ()
    """Requirements of every environment, besides the release."""
    pip: Pip
    jobs: int = field(default_factory=default_jobs)
    time_limit: float = LOADING_SECONDS


@dataclass(frozen=True, kw_only=True)
class ReleaseResult:
    """The verdict on one release."""

    release: str
    judgement: judging.Judgement
    packages: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """The fields without which it was tried once more, after the release refused the adapter."""
    without: judging.Judgement | None = None
    """The verdict then."""


@dataclass(frozen=True, kw_only=True)
class Compat:
    """How releases of peft load one adapter."""

    adapter: SavedAdapter
    base: BaseModel
    saved_by: str
    """The release that all others are compared with."""
    why_reference: str
    """Where its version comes from."""
    reference: Seen
    """What it makes of the adapter."""
    results: tuple[ReleaseResult, ...]
    """Oldest first."""

    @property
    def exit_code(self) -> int:
        """1 if a release breaks the adapter, else 3 if one is not known, else 0."""
        codes = {result.judgement.exit_code for result in self.results}
        return 1 if 1 in codes else max(codes, default=0)


def compat(
    adapter: SavedAdapter,
    settings: CompatSettings,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Compat:
    """Load an adapter in each release of a range, and compare it with the release that saved it.

    Raises `InputError` if the base cannot be made or the reference release does not load the
    adapter as it was saved, `AbsentError` if the reference is not known or cannot be installed or a
    range has no release, `PipError` without an index.
    """
    releases = _releases(settings)
    found: dict[str, ReleaseResult] = {}
    # The workers are gone before their environments are let go.
    with ExitStack() as overlays, LocalPool(settings.jobs, settings.time_limit) as pool:
        saved_by, why = _saved_by(adapter, settings)
        progress(f"peft {saved_by}: the reference")

        def tried(release: str) -> Future[Seen]:
            wanted = [f"peft=={release}", *settings.also_install]
            opening = opened_overlay(wanted, settings.pip)
            python = overlays.enter_context(opening).python
            (future,) = try_adapters(pool, python, settings.base, [adapter.folder])
            return future

        reference = _reference(str(saved_by), tried, adapter)

        def keep(release: str, judged: ReleaseResult) -> None:
            found[release] = judged
            progress(f"peft {release}: {judging.WORDS[judged.judgement.verdict]}")

        running: dict[str, Future[Seen]] = {}
        for release in map(str, releases):
            # pip runs in this thread, so that an interrupt ends it.
            try:
                running[release] = tried(release)
            except ReplacesTorchError:
                raise
            except InputError as error:
                keep(release, unusable(release, str(error)))
            for done in [name for name, future in running.items() if future.done()]:
                keep(done, _judged(done, running.pop(done), reference))
        for release, future in running.items():
            keep(release, _judged(release, future, reference))
    return Compat(
        adapter=adapter,
        base=settings.base,
        saved_by=str(saved_by),
        reference=reference,
        why_reference=why,
        results=tuple(found[str(release)] for release in releases),
    )


def _reference(release: str, tried: Callable[[str], Future[Seen]], adapter: SavedAdapter) -> Seen:
    """Return what the release that saved the adapter makes of it."""
    try:
        seen = tried(release).result()
    except ReplacesTorchError:
        raise
    except (PipError, UnusableEnvironmentError) as error:
        raise AbsentError(
            f"peft {release}, the release that saved the adapter, cannot be used: {error}. "
            "Name another one that computes the same with --saved-by VERSION"
        ) from None
    except BaseModelError as error:
        raise InputError(str(error)) from None
    problem = judging.problem_of_reference(seen.adapter)
    if problem:
        raise InputError(
            f"{adapter.folder}: peft {release}, the release to compare with, {problem}. "
            "Is --base the right model, and did that release save the adapter? Name another "
            "with --saved-by VERSION"
        )
    return seen


def _judged(release: str, future: Future[Seen], reference: Seen) -> ReleaseResult:
    try:
        seen = future.result()
    except (BaseModelError, UnusableEnvironmentError) as error:
        return unusable(release, str(error))
    without = seen.adapter.without
    return ReleaseResult(
        release=release,
        judgement=judging.judge(seen.base, seen.adapter, reference),
        packages=seen.packages,
        left_out=() if without is None else tuple(seen.adapter.unknown_fields),
        without=None if without is None else judging.judge(seen.base, without, reference),
    )


def unusable(release: str, problem: str) -> ReleaseResult:
    """Return the result of a release that cannot be tried."""
    judgement = judging.Judgement(verdict="unusable", details=(problem,))
    return ReleaseResult(release=release, judgement=judgement)


def _saved_by(adapter: SavedAdapter, settings: CompatSettings) -> tuple[Version, str]:
    """Return the release that saved the adapter, and where that is known from."""
    if settings.saved_by is not None:
        wrong = f"--saved-by {settings.saved_by!r} is not a version: write it as 0.13.2"
        return parse_version(settings.saved_by, wrong), "--saved-by"
    if adapter.saved_by is not None:
        return adapter.saved_by, "the adapter's configuration"
    written = adapter.configuration.get("peft_version")
    says = "does not say" if written is None else f"says {written!r}, which is no version of"
    raise AbsentError(
        f"{adapter.folder}: {CONFIGURATION} {says} the peft that saved the adapter (before "
        "0.18 it never does): name it with --saved-by VERSION"
    )


def _releases(settings: CompatSettings) -> tuple[Version, ...]:
    text = settings.releases or _BY_DEFAULT
    known = released_versions("peft", settings.pip) if _DOTS in text else []
    chosen = chosen_releases(text, known)
    # The default is the last patch of each minor release.
    by_minor = {one.release[:2]: one for one in chosen}
    return tuple(by_minor.values()) if settings.releases is None else chosen


def chosen_releases(text: str, known: Sequence[Version]) -> tuple[Version, ...]:
    """Return the releases of a range, oldest first.

    text: parts separated by commas, each a release or `OLDEST..NEWEST`, of which one end may be
    left out. known: what the index offers, oldest first. Raises `InputError` for a part of another
    form, `AbsentError` if no release is in a part.
    """
    return tuple(sorted({one for part in text.split(",") for one in _of_part(part.strip(), known)}))


def _of_part(part: str, known: Sequence[Version]) -> set[Version]:
    oldest, dots, newest = part.partition(_DOTS)
    if not dots:
        # It may be a pre-release, or yanked: pip knows.
        return {_version(part)}
    low, high = (_version(end) if end else None for end in (oldest.strip(), newest.strip()))
    found = {one for one in known if (low is None or low <= one) and (high is None or one <= high)}
    if not found:
        raise AbsentError(
            f"the index has no release of peft in {part!r} for this Python; its releases are "
            f"{known[0]} to {known[-1]}"
        )
    return found


def _version(text: str) -> Version:
    return parse_version(
        text,
        f"--releases: {text!r} is not a release: write 0.14.0, a range such as 0.10.0..0.21.2 or "
        "0.14.., or several with commas",
    )
