"""Fuzz an environment: replay the corpus, search for new findings, and keep each at once."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import msgspec

from peft_fuzz.methods import METHODS
from peft_fuzz.search.findings import Finding, read_corpus, read_finding, write_finding
from peft_fuzz.search.parallel_search import ParallelSearch
from peft_fuzz.search.replay import Replay
from peft_fuzz.search.sought import Counts, Found
from peft_fuzz.search.worker import LIBRARIES, LIFE_SECONDS, START_SECONDS, Begun
from peft_regress.errors import InputError, PeftRegressError, UnknownNameError
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.overlay.pip import Planned
from peft_regress.project.project import current_project
from peft_regress.text import clean, count_of
from peft_regress.workers.pool import Environment, LocalPool, Pool

Say = Callable[[str], None]

INTERRUPTED: Final = "interrupted"
"""The problem of a fuzzing that Ctrl-C or a signal ended."""


@dataclass(frozen=True, kw_only=True)
class FuzzSettings:
    """What to search, how long, and where to keep what is found."""

    corpus: Path
    save: Path
    minutes: float = 10.0
    methods: str = "*"
    seed: int = 0
    jobs: int = 1
    time_limit: float = LIFE_SECONDS
    replace_torch: bool = False
    pre: bool = False


def environment_of(
    python: Path = Path(sys.executable), planned: tuple[Planned, ...] = ()
) -> Environment:
    """Return the environment of an interpreter, as lives run in it."""
    variables = (("OMP_NUM_THREADS", "1"),)
    return Environment(python=python, planned=planned, libraries=LIBRARIES, variables=variables)


@dataclass(kw_only=True)
class Fuzzed:
    """A fuzzing, and what it brought so far; `problems` are why it is incomplete."""

    requirements: tuple[str, ...]
    settings: FuzzSettings
    methods: list[str]
    say: Say
    environment: Environment = field(default_factory=environment_of)
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)
    replay: Replay = field(default_factory=Replay)
    found: list[Finding] = field(default_factory=list)
    written: dict[str, Path] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether all was done that was asked for."""
        return not self.problems and not self.replay.of("not replayed")

    @property
    def exit_code(self) -> int:
        """Return 1 for new findings, 3 if incomplete, else 0."""
        if self.found or self.replay.of("new"):
            return 1
        return 0 if self.is_complete else 3

    def run(self, corpus: Sequence[Finding], cluster: Pool | None) -> None:
        """Replay the corpus, and search."""
        try:
            self._replay(corpus)
            if self.settings.minutes <= 0:
                return
            if cluster is not None:
                self._search(cluster, is_cluster=True)
                return
            with LocalPool(self.settings.jobs, time_limit=START_SECONDS) as pool:
                self._search(pool)
        except KeyboardInterrupt:
            self.problems.append(INTERRUPTED)

    def _replay(self, corpus: Sequence[Finding]) -> None:
        if not corpus:
            missing = f"no known defects of {self.settings.methods!r} in {self.settings.corpus}"
            if self.settings.minutes > 0:
                self.remarks.append(f"{missing}: all that is found is new")
            else:
                self.problems.append(f"{missing}: nothing was replayed")
            return
        self.say(f"replaying {count_of(len(corpus), 'finding')} of the corpus")
        self.replay = Replay(findings=corpus)
        try:
            self.replay.run(self.environment, life_seconds=self.settings.time_limit)
        finally:
            self.packages = dict(self.replay.packages)
        for one in self.replay.newly_mended:
            self._write(msgspec.structs.replace(one.finding, mended=self.packages, accepted=None))

    def _search(self, pool: Pool, *, is_cluster: bool = False) -> None:
        run = ParallelSearch(
            pool=pool,
            environment=self.environment,
            methods=self.methods,
            minutes=self.settings.minutes,
            jobs=self.settings.jobs,
            seed=self.settings.seed,
            life_seconds=self.settings.time_limit,
            begun=self._begun,
            take=self._take,
            say=self.say,
            known=[one.cause for one in self.replay.of("still there") if one.cause is not None],
        )
        started = time.monotonic()
        try:
            run.run()
        except PeftRegressError as error:
            if not (is_cluster and run.has_begun):
                raise
            self.problems.append(f"the search ended early: {clean(str(error), longest=300)}")
        finally:
            self.seconds = time.monotonic() - started
            self.counts = run.counts
            self.problems += run.problems

    def _begun(self, begun: Begun) -> list[str]:
        """Return the methods to search, once the environment is known."""
        self.packages = dict(begun.packages)
        methods = [name for name in self.methods if name not in begun.absent]
        release = f"peft {clean(self.packages.get('peft', 'of this environment'))}"
        lacks = f"{release} has no {', '.join(begun.absent)}"
        if begun.absent and not methods:
            self.problems.append(lacks)
        elif begun.absent:
            self.remarks.append(f"{lacks}: not searched")
        return methods

    def _take(self, found: Found) -> None:
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
        self.say(f"found {finding.name}: {clean(found.failure.message, longest=200)}")

    def _write(self, finding: Finding) -> None:
        """Write a finding, unless a smaller one of the same cause is there."""
        path = self.settings.save / f"{finding.name}.json"
        with contextlib.suppress(InputError):  # an absent or unreadable one is replaced
            if read_finding(path).size < finding.size:
                return
        self.written[finding.name] = write_finding(self.settings.save, finding)


def fuzz(
    requirements: Sequence[str],
    settings: FuzzSettings,
    *,
    progress: Say = lambda _: None,
    cluster: Pool | None = None,
) -> Fuzzed:
    """Fuzz the installed packages, or an environment with some requirements over them.

    With a cluster, its nodes search; the corpus is replayed on this machine. An interrupt ends the
    search, and the result has what was found until then. Raises `InputError` if the environment or
    the corpus cannot be used, `UnknownNameError` for a glob without a method.
    """
    methods = [name for name in METHODS if fnmatchcase(name, settings.methods)]
    if not methods:
        raise UnknownNameError("method of the fuzzer", settings.methods, METHODS)
    corpus = [one for one in read_corpus(settings.corpus) if one.example.method in methods]
    try:
        if settings.minutes > 0:
            settings.save.mkdir(parents=True, exist_ok=True)  # now, and not after minutes of search
    except OSError as error:
        raise InputError(f"--save {settings.save}: {error.strerror}") from error
    asked = tuple(requirements)
    result = Fuzzed(requirements=asked, settings=settings, methods=methods, say=progress)
    pip = replace(
        current_project().settings.pip, pre=settings.pre, replace_torch=settings.replace_torch
    )
    with contextlib.ExitStack() as stack:
        if requirements:
            overlay = stack.enter_context(opened_overlay(requirements, pip))
            result.environment = environment_of(overlay.python, tuple(overlay.planned))
            result.remarks += overlay.remarks
        result.run(corpus, cluster)
    return result
