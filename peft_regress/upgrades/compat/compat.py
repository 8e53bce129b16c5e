"""Load a saved adapter in a range of releases, and judge each by the release that saved it."""

from __future__ import annotations

import functools
import queue
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from packaging.version import InvalidVersion, Version

from peft_regress.errors import AbsentError, InputError
from peft_regress.overlay.overlay import ReplacesTorchError, opened_overlay
from peft_regress.overlay.pip import PIP_SECONDS, PipError, released_versions
from peft_regress.runs.environment import installed_packages
from peft_regress.text import printable
from peft_regress.upgrades.compat.adapter import CONFIGURATION, SavedAdapter
from peft_regress.upgrades.compat.certificate import Certificate, require_same_files
from peft_regress.upgrades.compat.messages import BaseModel
from peft_regress.upgrades.compat.releases import (
    LOADING_SECONDS,
    BaseModelError,
    Seen,
    try_adapters,
)
from peft_regress.upgrades.compat.verdicts import (
    WORDS,
    Judgement,
    Reference,
    judge,
    problem_of_reference,
)
from peft_regress.workers.pool import (
    LocalPool,
    Pool,
    UnusableEnvironmentError,
    default_jobs,
)

OLDEST_RELEASE: Final = "0.10.0"
"""The first release of peft that is tried if no range is given."""


@dataclass(frozen=True, kw_only=True)
class CompatSettings:
    """Which releases load the adapter, on what, and how."""

    base: BaseModel
    folder: Path
    """Import paths of the base model are looked up there."""
    package: str = "peft"
    releases: str | None = None
    """See `chosen_releases`; by default the last patch of each minor release of peft."""
    last_patches: bool = False
    saved_by: str | None = None
    """By default what the adapter's configuration says; of another package the installed one."""
    also_install: tuple[str, ...] = ()
    """Requirements of every environment, besides the release."""
    replace_torch: bool = False
    pre: bool = False
    jobs: int = field(default_factory=default_jobs)
    time_limit: float = LOADING_SECONDS
    pip_seconds: float = PIP_SECONDS


@dataclass(frozen=True, kw_only=True)
class ReleaseResult:
    """The verdict on one release."""

    release: str
    judgement: Judgement
    packages: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    """What the library says there and not in the reference."""
    left_out: tuple[str, ...] = ()
    """The fields without which it was tried once more, after the release refused the adapter."""
    without: Judgement | None = None
    """The verdict then."""


@dataclass(frozen=True, kw_only=True)
class Compat:
    """How the releases of a package load one adapter."""

    adapter: SavedAdapter
    base: BaseModel
    package: str
    reference: Reference
    why_reference: str
    """Where its version comes from."""
    results: tuple[ReleaseResult, ...]
    """Oldest first."""
    certificate: Certificate | None = None
    """The one that was checked."""
    is_complete: bool = True
    """Whether every release was judged; not after an interrupt."""

    @property
    def exit_code(self) -> int:
        """1 if a release breaks the adapter, else 3 if one is not known, else 0."""
        codes = {result.judgement.exit_code for result in self.results}
        return 1 if 1 in codes else max(codes, default=0)


def compat(
    adapter: SavedAdapter,
    settings: CompatSettings,
    *,
    certificate: Certificate | None = None,
    progress: Callable[[str], None] = lambda _: None,
    on_result: Callable[[Compat], None] = lambda _: None,
) -> Compat:
    """Load an adapter in each release of a range, and compare it with the release that saved it.

    With a certificate, the releases are judged by its reference. `on_result` gets what is known so
    far whenever a release was judged. Raises `InputError` if the base cannot be made or the
    reference release does not load the adapter as it was saved, `AbsentError` if the reference is
    not known or cannot be installed or a range has no release, `PipError` without an index.
    """
    releases = _releases(settings)
    # The workers are gone before their environments are let go.
    with ExitStack() as overlays, LocalPool(settings.jobs, settings.time_limit) as pool:
        run = _Run(adapter, settings, pool, overlays, progress)
        if certificate is not None:
            reference, why = certificate.reference, certificate.why_reference
        else:
            saved_by, why = _saved_by(adapter, settings)
            reference = run.reference(str(saved_by))
        known: dict[str, ReleaseResult] = {}

        def so_far() -> Compat:
            return Compat(
                adapter=adapter,
                base=settings.base,
                package=settings.package,
                reference=reference,
                why_reference=why,
                certificate=certificate,
                results=tuple(known[release] for release in sorted(known, key=Version)),
            )

        def keep(result: ReleaseResult) -> None:
            known[result.release] = result
            progress(f"{settings.package} {result.release}: {WORDS[result.judgement.verdict]}")
            on_result(so_far())

        run.judge_all([str(release) for release in releases], reference, keep)
        return so_far()


@dataclass(frozen=True)
class _Run:
    adapter: SavedAdapter
    settings: CompatSettings
    pool: Pool
    overlays: ExitStack
    progress: Callable[[str], None]

    def reference(self, release: str) -> Reference:
        """Return what the release that saved the adapter makes of it."""
        shown = f"{self.settings.package} {release}"
        self.progress(f"{shown}: the reference")
        try:
            seen = self._tried(release).result()
        except ReplacesTorchError:
            raise
        except (PipError, UnusableEnvironmentError) as error:
            raise AbsentError(
                f"{shown}, the release that saved the adapter, cannot be used: {error}. Name "
                "another one that computes the same with --saved-by VERSION"
            ) from None
        except BaseModelError as error:
            raise InputError(str(error)) from None
        reference = Reference(
            release=release, packages=dict(seen.packages), base=seen.base, adapter=seen.adapter
        )
        problem = problem_of_reference(seen.adapter)
        if problem:
            raise InputError(
                f"{self.adapter.folder}: {shown}, the release to compare with, {problem}. Is "
                "--base the right model, and did that release save the adapter? Name another with "
                "--saved-by VERSION"
            )
        return reference

    def judge_all(
        self, releases: Sequence[str], reference: Reference, keep: Callable[[ReleaseResult], None]
    ) -> None:
        """Judge releases, some at once."""
        ended: queue.SimpleQueue[tuple[str, Future[Seen]]] = queue.SimpleQueue()
        running = 0
        for release in releases:
            # pip runs in this thread, so that an interrupt ends it.
            try:
                future = self._tried(release)
            except ReplacesTorchError:
                raise
            except InputError as error:
                keep(unusable(release, str(error)))
            else:
                future.add_done_callback(functools.partial(_put, ended, release))
                running += 1
            while not ended.empty():
                running -= 1
                keep(_judged(*ended.get(), reference))
        for _ in range(running):
            keep(_judged(*ended.get(), reference))

    def _tried(self, release: str) -> Future[Seen]:
        settings = self.settings
        overlay = self.overlays.enter_context(
            opened_overlay(
                [f"{settings.package}=={release}", *settings.also_install],
                replace_torch=settings.replace_torch,
                seconds=settings.pip_seconds,
            )
        )
        adapters = [self.adapter.folder]
        (future,) = try_adapters(
            self.pool, overlay.python, settings.base, folder=settings.folder, adapters=adapters
        )
        return future


def _put(
    ended: queue.SimpleQueue[tuple[str, Future[Seen]]], release: str, future: Future[Seen]
) -> None:
    ended.put((release, future))


def _judged(release: str, future: Future[Seen], reference: Reference) -> ReleaseResult:
    try:
        return result_of(release, future.result(), reference)
    except (BaseModelError, UnusableEnvironmentError) as error:
        return unusable(release, str(error))


def result_of(release: str, seen: Seen, reference: Reference) -> ReleaseResult:
    """Judge what a release made of an adapter."""
    without = None if seen.without is None else judge(seen.base, seen.without, reference)
    said = [one for one in seen.adapter.warnings if one not in reference.adapter.warnings]
    return ReleaseResult(
        release=release,
        judgement=judge(seen.base, seen.adapter, reference),
        packages=seen.packages,
        warnings=tuple(said),
        left_out=seen.left_out,
        without=without,
    )


def unusable(release: str, problem: str) -> ReleaseResult:
    """Return the result of a release that cannot be tried."""
    return ReleaseResult(
        release=release, judgement=Judgement(verdict="unusable", details=(problem,))
    )


def _saved_by(adapter: SavedAdapter, settings: CompatSettings) -> tuple[Version, str]:
    """Return the release that saved the adapter, and where that is known from."""
    package = settings.package
    if settings.saved_by is not None:
        try:
            return Version(settings.saved_by), "--saved-by"
        except InvalidVersion:
            raise InputError(
                f"--saved-by {settings.saved_by!r} is not a version: write it as 0.13.2"
            ) from None
    if package == "peft" and adapter.saved_by is not None:
        return adapter.saved_by, "the adapter's configuration"
    if package == "peft":
        written = adapter.configuration.get("peft_version")
        says = "does not say" if written is None else f"says {written!r}, which is no version of"
        msg = (
            f"{adapter.folder}: {CONFIGURATION} {says} the peft that saved the adapter (before "
            "0.18 it never does): name it with --saved-by VERSION"
        )
        raise AbsentError(printable(msg))
    installed = installed_packages().get(package)
    if installed is None:
        raise InputError(
            f"{package} is not installed: name the release to compare with by --saved-by VERSION"
        )
    return Version(Version(installed).public), "the installed one"


def _releases(settings: CompatSettings) -> tuple[Version, ...]:
    text = settings.releases
    if text is None and settings.package != "peft":
        raise InputError(
            f"name the releases of {settings.package} to try, for example --releases 2.0..2.1"
        )
    known: list[Version] = []
    if text is None or ".." in text:
        known = released_versions(settings.package, pre=settings.pre, seconds=settings.pip_seconds)
    return chosen_releases(
        f"{OLDEST_RELEASE}.." if text is None else text,
        known,
        package=settings.package,
        last_patches=settings.last_patches or text is None,
    )


_DOTS = ".."


def chosen_releases(
    text: str, known: Sequence[Version], *, package: str, last_patches: bool = False
) -> tuple[Version, ...]:
    """Return the releases of a range, oldest first.

    text: parts separated by commas, each a release or `OLDEST..NEWEST`, of which one end may be
    left out. known: what the index offers, oldest first. last_patches: of each minor release only
    the last of its patches in the range. Raises `InputError` for a part of another form,
    `AbsentError` if no release is in a part.
    """
    chosen: set[Version] = set()
    for part in text.split(","):
        chosen |= _of_part(part.strip(), known, package=package)
    found = sorted(chosen)
    return tuple(_last_patches(found) if last_patches else found)


def _of_part(part: str, known: Sequence[Version], *, package: str) -> set[Version]:
    oldest, dots, newest = part.partition(_DOTS)
    if not dots:
        release = _version(part)
        # It may be a pre-release, or yanked: pip knows.
        return {release}
    ends = [_version(end) if end else None for end in (oldest.strip(), newest.strip())]
    low, high = ends
    if low is not None and high is not None and low > high:
        raise InputError(f"{part!r} has no release in it: the older one comes first, {high}..{low}")
    found = {one for one in known if (low is None or low <= one) and (high is None or one <= high)}
    if not found:
        raise AbsentError(
            f"the index has no release of {package} in {part!r} for this Python; its releases are "
            f"{known[0]} to {known[-1]}"
        )
    return found


def _last_patches(releases: Iterable[Version]) -> list[Version]:
    return list({one.release[:2]: one for one in releases}.values())


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        raise InputError(
            f"--releases: {text!r} is not a release: write 0.14.0, a range such as 0.10.0..0.21.2 "
            "or 0.14.., or several with commas"
        ) from None


def check_installed(
    certificate: Certificate, adapter: SavedAdapter, *, folder: Path, time_limit: float
) -> Compat:
    """Load the adapter in the running environment, and judge it by the certificate's output.

    Nothing is installed, and no index is asked. Raises `AbsentError` if the certificate is about
    other bytes, `InputError` if the base model cannot be made.
    """
    require_same_files(certificate, adapter)
    installed = installed_packages().get(certificate.package)
    if installed is None:
        raise AbsentError(
            f"{certificate.package} is not installed, so that there is no release to check"
        )
    release = str(Version(Version(installed).public))
    result: ReleaseResult
    try:
        with LocalPool(1, time_limit) as pool:
            python, adapters = Path(sys.executable), [adapter.folder]
            (future,) = try_adapters(
                pool, python, certificate.base, folder=folder, adapters=adapters
            )
            seen = future.result()
        result = result_of(release, seen, certificate.reference)
    except UnusableEnvironmentError as error:
        result = unusable(release, str(error))
    except BaseModelError as error:
        raise InputError(str(error)) from None
    return Compat(
        adapter=adapter,
        base=certificate.base,
        package=certificate.package,
        reference=certificate.reference,
        why_reference=certificate.why_reference,
        results=(result,),
        certificate=certificate,
    )
