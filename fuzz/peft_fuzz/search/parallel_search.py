"""Search in several processes at once; a finding of one of them is known to the others."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_fuzz.search.causes import Cause, is_known
from peft_fuzz.search.messages import Counts, Found, Seek, Sought
from peft_fuzz.search.workers import LifeWorker
from peft_regress.errors import InputError
from peft_regress.text import clean, count_of
from peft_regress.workers.process import RequestRefusedError, WorkerError

if TYPE_CHECKING:
    from peft_fuzz.search.cluster_search import RemoteLifeWorker

SLICE_SECONDS: Final = 15.0
"""How long a worker searches before it answers and hears what others have found."""
SHRINK_SECONDS: Final = 8.0
"""How long a failing example is made smaller; most need 2 to 5. It is time that does not search."""

_PROGRESS_SECONDS: Final = 10.0
_MOST_FAILED_SEARCHES: Final = 5
_METHODS_AT_ONCE: Final = 3


@dataclass(kw_only=True)
class ParallelSearch:
    """Threads, each of which has a worker that searches; `run` is called once.

    Attributes:
        python: The interpreter of the workers.
        methods: The methods that were asked for; then those of them that the release has.
        seed: Of all searches; each has a seed of its own, made from this one.
        begun: Gets the packages of the first worker and the methods that it lacks; returns the
            methods to search.
        take: Keeps a new finding; called by one thread at a time.
        say: Shows a line of progress.
        open_worker: Makes what searches for given methods; a process of this machine if it is None.
        status: Says more in a line of progress.
        known: The causes that are no finding any more; findings are added.
        counts: How many lives ended how.
        problems: Why the search is incomplete.

    """

    python: Path
    methods: list[str]
    minutes: float
    jobs: int
    seed: int
    life_seconds: float
    begun: Callable[[dict[str, str], Sequence[str]], list[str]]
    take: Callable[[Found], None]
    say: Callable[[str], None]
    known: list[Cause]
    open_worker: Callable[[Sequence[str]], LifeWorker | RemoteLifeWorker] | None = None
    status: Callable[[], str] = lambda: ""
    found: int = 0
    counts: Counts = field(default_factory=Counts)
    problems: list[str] = field(default_factory=list)
    workers: list[LifeWorker | RemoteLifeWorker] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_stopped: threading.Event = field(default_factory=threading.Event)
    end: float = 0.0
    has_begun: bool = False

    def run(self) -> None:
        """Search until the time is over; end every process on an error or an interrupt."""
        started, jobs = time.monotonic(), self.jobs
        self.end = started + 60 * self.minutes
        with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="searching") as pool:
            try:
                waiting: set[Future[None]] = {pool.submit(self._work, job) for job in range(jobs)}
                while waiting:
                    done, waiting = wait(waiting, _PROGRESS_SECONDS, FIRST_EXCEPTION)
                    for thread in done:
                        thread.result()
                    if waiting:
                        self._tell(time.monotonic() - started)
            except BaseException:
                self._stop()
                raise

    def _stop(self) -> None:
        self.is_stopped.set()
        with self.lock:
            for worker in self.workers:
                worker.stop()

    def _tell(self, seconds: float) -> None:
        lives = sum(self.counts.lives.values())
        new = count_of(self.found, "new finding")
        left = max(self.end - time.monotonic(), 0)
        clock = f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
        done = f"{count_of(lives, 'life', 'lives')}, {new}"
        self.say(f"[{clock}] {done}, {left / 60:.1f} min left{self.status()}")

    def _work(self, job: int) -> None:
        with self._opened_worker() as worker:
            with self.lock:
                self.workers.append(worker)
                if self.is_stopped.is_set():
                    return
            try:
                begun = worker.begin()
            except InputError:
                if self.is_stopped.is_set():
                    return
                raise
            with self.lock:
                if not self.has_begun:
                    self.methods = self.begun(begun.packages, begun.absent)
                    self.has_begun = True
            if self.methods:
                self._search(worker, job)

    def _opened_worker(self) -> LifeWorker | RemoteLifeWorker:
        if self.open_worker is not None:
            return self.open_worker(self.methods)
        return LifeWorker(self.python, self.methods, life_seconds=self.life_seconds)

    def _search(self, worker: LifeWorker | RemoteLifeWorker, job: int) -> None:
        failed = 0
        for turn in count():
            left = self.end - time.monotonic()
            if left <= 0 or self.is_stopped.is_set() or failed > _MOST_FAILED_SEARCHES:
                return
            request = Seek(
                methods=some_methods(
                    self.methods, seed=self.seed, jobs=self.jobs, job=job, turn=turn
                ),
                seed=seed_of(self.seed, job, turn),
                seconds=min(left, SLICE_SECONDS),
                shrink_seconds=SHRINK_SECONDS,
                known=tuple(self.known),
            )
            try:
                sought = worker.seek(request)
            except RequestRefusedError as error:
                # A fault of this project or of a release's import, which must not pass unseen.
                failed += 1
                with self.lock:
                    self.problems.append(f"a search failed: {clean(str(error), longest=300)}")
            except WorkerError:
                if self.is_stopped.is_set():
                    return
                raise
            else:
                with self.lock:
                    self._take(sought)

    def _take(self, sought: Sought) -> None:
        self.counts = self.counts.plus(sought.counts)
        if sought.problem:
            self.problems.append(f"an example could not be judged: {sought.problem}")
        found = sought.found
        if found is None or self.is_stopped.is_set():
            return
        if is_known(found.cause, self.known):  # another worker was faster
            self.counts = self.counts.plus(Counts(known={found.example.method: 1}))
            return
        self.known.append(found.cause)
        self.take(found)
        self.found += 1


def some_methods(
    methods: Sequence[str], *, seed: int, jobs: int, job: int, turn: int
) -> tuple[str, ...]:
    """Return the methods of one search: few, so that hypothesis neglects none of them."""
    first = _METHODS_AT_ONCE * (turn * jobs + job)
    shuffled = sorted(methods, key=lambda name: seed_of(seed, 0, name))
    number = min(_METHODS_AT_ONCE, len(methods))
    return tuple(shuffled[(first + index) % len(methods)] for index in range(number))


def seed_of(seed: int, job: int, turn: int | str) -> int:
    """Return the seed of one search of one worker."""
    content = f"{seed} {job} {turn}".encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8])
