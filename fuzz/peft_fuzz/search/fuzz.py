"""Fuzz an environment: replay the corpus, search for new findings, and keep each at once."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import msgspec

from peft_fuzz.methods import METHODS
from peft_fuzz.search.corpus import read_corpus
from peft_fuzz.search.findings import Finding, check_writable, read_finding, write_finding
from peft_fuzz.search.messages import Counts, Found
from peft_fuzz.search.parallel_search import ParallelSearch
from peft_fuzz.search.ranges import Ranges
from peft_fuzz.search.replay import Replay
from peft_fuzz.search.workers import LIFE_SECONDS
from peft_regress.errors import InputError, PeftRegressError, UnknownNameError
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.overlay.pip import PIP_SECONDS, Planned
from peft_regress.text import clean, count_of
from peft_regress.workers.pool import Environment, Pool

Say = Callable[[str], None]

INTERRUPTED: Final = "interrupted"
"""The problem of a fuzzing that Ctrl-C or a signal ended."""


@dataclass(frozen=True, kw_only=True)
class FuzzSettings:
    """What to search, how long, and where to keep what is found."""

    corpus: Path
    """The folder of the known findings."""
    save: Path
    """The folder of the findings: one JSON file each."""
    minutes: float = 10.0
    """How long to search; 0 to replay the corpus alone."""
    methods: str = "*"
    """A glob on the methods' names."""
    seed: int = 0
    jobs: int = 1
    ranges: bool = True
    """Whether to find the releases in which a new finding fails."""
    time_limit: float = LIFE_SECONDS
    """How many seconds one life may take."""
    pip_time_limit: float = PIP_SECONDS
    replace_torch: bool = False
    pre: bool = False


def chosen_methods(pattern: str) -> list[str]:
    """Return the methods that match a glob. Raises `UnknownNameError` if none does."""
    found = [name for name in METHODS if fnmatchcase(name, pattern)]
    if not found:
        what = "method of the fuzzer"
        raise UnknownNameError(what, pattern, METHODS)
    return found


@dataclass(kw_only=True)
class Fuzzed:
    """A fuzzing, and what it brought so far.

    Attributes:
        python: The interpreter in which examples run.
        planned: What is installed there over the running environment.
        remarks: What the report tells besides.
        problems: Why it is incomplete.
        packages: The versions of what was fuzzed; empty if it did not come so far.
        written: The files of the findings, by their names.
        seconds: How long the search took.
        unwritten: Why a finding could not be written; the search then stopped.

    """

    requirements: tuple[str, ...]
    settings: FuzzSettings
    methods: list[str]
    say: Say
    python: Path = Path(sys.executable)
    planned: tuple[Planned, ...] = ()
    cluster: Pool | None = None
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)
    replay: Replay = field(default_factory=Replay)
    found: list[Finding] = field(default_factory=list)
    written: dict[str, Path] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    unwritten: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether all was done that was asked for."""
        return not self.problems and self.replay.is_complete

    @property
    def exit_code(self) -> int:
        """Return 2 if a finding was not written, 1 for new findings, 3 if incomplete, else 0."""
        if self.unwritten:
            return 2
        if self.found or self.replay.of("new"):
            return 1
        return 0 if self.is_complete else 3

    def run(self, corpus: Sequence[Finding]) -> None:
        """Replay the corpus, search, and find the releases in which a finding fails."""
        try:
            if corpus:
                self._replay(corpus)
            else:
                self._miss_corpus()
            self._search()
            self._find_ranges()
        except KeyboardInterrupt:
            self.problems.append(INTERRUPTED)

    def _replay(self, corpus: Sequence[Finding]) -> None:
        """Run the corpus; what is still there is no news to the search."""
        self.say(f"replaying {count_of(len(corpus), 'finding')} of the corpus")
        self.replay = Replay(findings=corpus)
        try:
            self.replay.run(self.python, life_seconds=self.settings.time_limit)
        finally:
            self.packages = dict(self.replay.packages)
        for one in self.replay.newly_mended:
            self._write(msgspec.structs.replace(one.finding, mended=self.packages, accepted=None))

    def _miss_corpus(self) -> None:
        """Say that nothing is known of these methods; then a replay alone has nothing to do."""
        missing = f"no known defects of {self.settings.methods!r} in {self.settings.corpus}"
        if self.settings.minutes > 0:
            self.remarks.append(f"{missing}: all that is found is new")
        else:
            self.problems.append(f"{missing}: nothing was replayed")

    def _search(self) -> None:
        """Search until the time is over."""
        if self.settings.minutes <= 0 or self.unwritten:
            return
        known = [one.cause for one in self.replay.of("still there") if one.cause is not None]
        run = ParallelSearch(
            python=self.python,
            methods=self.methods,
            minutes=self.settings.minutes,
            jobs=self.settings.jobs,
            seed=self.settings.seed,
            life_seconds=self.settings.time_limit,
            begun=self.begun,
            take=self.take,
            say=self.say,
            known=known,
            **self._on_cluster(),
        )
        started = time.monotonic()
        try:
            run.run()
        except PeftRegressError as error:
            if not self._is_told(error, has_begun=run.has_begun):
                raise
        finally:
            self.seconds = time.monotonic() - started
            self.counts = run.counts
            self.problems += run.problems

    def _is_told(self, error: PeftRegressError, *, has_begun: bool) -> bool:
        """Return whether the report tells why the search ended early."""
        if self.unwritten:
            return True
        if self.cluster is None or not has_begun:
            return False
        self.problems.append(f"the search ended early: {clean(str(error), longest=300)}")
        return True

    def _on_cluster(self) -> dict[str, Any]:
        """Return what a search on the nodes of a cluster needs besides."""
        cluster = self.cluster
        if cluster is None:
            return {}
        from peft_fuzz.search.cluster_search import RemoteLifeWorker, SearchTask

        def open_worker(methods: Sequence[str]) -> RemoteLifeWorker:
            task = SearchTask(methods=tuple(methods), life_seconds=self.settings.time_limit)
            there = Environment(python=self.python, planned=self.planned, libraries=("peft",))
            return RemoteLifeWorker(cluster, there, task)

        return {"open_worker": open_worker, "status": lambda: f", {cluster.status}"}

    def begun(self, packages: dict[str, str], absent: Sequence[str]) -> list[str]:
        """Return the methods to search, once the environment is known."""
        self.packages = dict(packages)
        methods = [name for name in self.methods if name not in absent]
        release = f"peft {clean(packages.get('peft', 'of this environment'))}"
        if absent and not methods:
            self.problems.append(f"{release} has no {', '.join(absent)}")
        elif absent:
            self.remarks.append(f"{release} has no {', '.join(absent)}: not searched")
        return methods

    def take(self, found: Found) -> None:
        """Keep a new finding, on disk first. Raises `InputError` if that fails."""
        finding = Finding(
            cause=found.cause,
            example=found.example,
            failure=found.failure,
            packages=self.packages,
            seed=self.settings.seed,
        )
        self.found.append(finding)
        self._write(finding)
        for other in [one for one in self.found[:-1] if found.cause.explains(one.cause)]:
            self.found.remove(other)
            path = self.written.pop(other.name, None)
            if path is not None:
                path.unlink(missing_ok=True)
        message = clean(found.failure.message, longest=200)
        self.say(f"found {finding.name}: {message}")

    def _find_ranges(self) -> None:
        """Find the releases in which each new finding fails, as far as an interrupt lets it."""
        if not (self.found and self.settings.ranges) or self.unwritten:
            return
        ranges = Ranges(
            findings=list(self.found),
            requirements=self.requirements,
            life_seconds=self.settings.time_limit,
            pip_seconds=self.settings.pip_time_limit,
            say=self.say,
        )
        try:
            ranges.find(self.packages.get("peft", ""))
        finally:
            if ranges.problem:
                self.remarks.append(f"no range of releases: {ranges.problem}")
            self.found = [
                msgspec.structs.replace(one, releases=ranges.of(one.name)) for one in self.found
            ]
            for one in self.found:
                self._write(one)

    def _write(self, finding: Finding) -> None:
        """Write a finding, unless a smaller one of the same cause is there."""
        path = self.settings.save / f"{finding.name}.json"
        try:
            if path.exists() and finding.name not in self.written:
                with contextlib.suppress(InputError):  # an unreadable one is replaced
                    if read_finding(path).size < finding.size:
                        return
            self.written[finding.name] = write_finding(self.settings.save, finding)
        except InputError as error:
            self.unwritten = self.unwritten or str(error)
            self.say(f"{finding.name} cannot be written: {error}")
            raise


def fuzz(
    requirements: Sequence[str],
    settings: FuzzSettings,
    *,
    progress: Say = lambda _: None,
    finish: Callable[[Fuzzed], None] = lambda _: None,
    cluster: Pool | None = None,
) -> Fuzzed:
    """Fuzz the installed packages, or an environment with some requirements over them.

    With a cluster, its nodes search; the corpus and the ranges of releases stay on this machine.
    `finish` is called with the result while the environment exists. An interrupt ends the search,
    and the result has what was found until then. Raises `InputError` if the environment or the
    corpus cannot be used, `UnknownNameError` for a glob without a method.
    """
    methods = chosen_methods(settings.methods)
    corpus = [one for one in read_corpus(settings.corpus) if one.example.method in methods]
    if settings.minutes > 0:
        check_writable(settings.save)  # now, and not after minutes of search
    result = Fuzzed(
        requirements=tuple(requirements),
        settings=settings,
        methods=methods,
        say=progress,
        cluster=cluster,
    )
    with contextlib.ExitStack() as stack:
        if requirements:
            overlay = stack.enter_context(
                opened_overlay(
                    requirements,
                    replace_torch=settings.replace_torch,
                    pre=settings.pre,
                    seconds=settings.pip_time_limit,
                )
            )
            result.python, result.planned = overlay.python, tuple(overlay.planned)
            result.remarks += overlay.remarks
        result.run(corpus)
        finish(result)
    return result
