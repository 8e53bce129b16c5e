"""Search by slices in a pool's workers; a finding of one of them is known to the next slices."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from peft_fuzz.search import worker
from peft_fuzz.search.causes import Cause, is_known
from peft_fuzz.search.sought import Counts, Found, Sought
from peft_fuzz.search.worker import Begin, Begun, Seek
from peft_regress.text import clean, count_of
from peft_regress.workers.pool import Environment, GivenUpError, Pool
from peft_regress.workers.worker import RequestRefusedError

SLICE_SECONDS: Final = 15.0
"""How long a worker searches before it answers and hears what others have found."""
SHRINK_SECONDS: Final = 8.0
"""How long a failing example is made smaller; most need 2 to 5. It is time that does not search."""

_PROGRESS_SECONDS: Final = 10.0
_MOST_FAILED_SEARCHES: Final = 5
_METHODS_AT_ONCE: Final = 3


@dataclass(kw_only=True)
class ParallelSearch:
    """A search; `run` is called once."""

    pool: Pool
    environment: Environment
    methods: list[str]
    minutes: float
    jobs: int
    seed: int
    life_seconds: float
    begun: Callable[[Begun], list[str]]
    take: Callable[[Found], None]
    say: Callable[[str], None]
    known: list[Cause]
    found: int = 0
    counts: Counts = field(default_factory=Counts)
    problems: list[str] = field(default_factory=list)
    has_begun: bool = False
    _failed: int = 0

    def run(self) -> None:
        """Search until the time is over; on an error or interrupt the pool's workers are ended."""
        turns = count()
        running: set[Future[Sought]] = set()
        try:
            self._begin()
            end = time.monotonic() + 60 * self.minutes
            while True:
                left = end - time.monotonic()
                while self.methods and left > 0 and len(running) < self.jobs and not self._is_over:
                    running.add(self._slice(next(turns), min(left, SLICE_SECONDS)))
                if not running:
                    return
                done, running = wait(running, _PROGRESS_SECONDS, FIRST_COMPLETED)
                for future in done:
                    self._take(future)
                if not done:
                    self._tell()
        except BaseException:
            self.pool.stop()
            raise

    def _begin(self) -> None:
        request = Begin(methods=tuple(self.methods))
        (asked,) = self.pool.submit(self.environment, f"{worker.__name__}:begin", [request], Begun)
        self.methods = self.begun(asked.result())
        self.has_begun = True

    @property
    def _is_over(self) -> bool:
        return self._failed > _MOST_FAILED_SEARCHES

    def _slice(self, turn: int, seconds: float) -> Future[Sought]:
        request = Seek(
            methods=some_methods(self.methods, seed=self.seed, turn=turn),
            seed=seed_of(self.seed, turn),
            seconds=seconds,
            shrink_seconds=SHRINK_SECONDS,
            known=tuple(self.known),
            life_seconds=self.life_seconds,
        )
        (future,) = self.pool.submit(
            self.environment, f"{worker.__name__}:search", [request], Sought
        )
        return future

    def _tell(self) -> None:
        lives, new = sum(self.counts.lives.values()), count_of(self.found, "new finding")
        status = f", {self.pool.status}" if self.pool.status else ""
        self.say(f"{count_of(lives, 'life', 'lives')}, {new}{status}")

    def _take(self, future: Future[Sought]) -> None:
        try:
            sought = future.result()
        except (GivenUpError, RequestRefusedError) as error:
            # A fault of this project or of a release's import, which must not pass unseen.
            self._failed += 1
            self.problems.append(f"a search failed: {clean(str(error), longest=300)}")
            return
        self.counts = self.counts.plus(sought.counts)
        if sought.problem:
            self.problems.append(f"an example could not be judged: {sought.problem}")
        found = sought.found
        if found is None:
            return
        if is_known(found.cause, self.known):  # another worker was faster
            self.counts = self.counts.plus(Counts(known={found.example.method: 1}))
            return
        self.known.append(found.cause)
        self.take(found)
        self.found += 1


def some_methods(methods: Sequence[str], *, seed: int, turn: int) -> tuple[str, ...]:
    """Return the methods of one slice: few, so that hypothesis neglects none of them."""
    shuffled = sorted(methods, key=lambda name: seed_of(seed, name))
    number = min(_METHODS_AT_ONCE, len(methods))
    return tuple(shuffled[(number * turn + index) % len(methods)] for index in range(number))


def seed_of(seed: int, turn: int | str) -> int:
    """Return the seed of one slice."""
    return int.from_bytes(hashlib.sha256(f"{seed} {turn}".encode()).digest()[:8])
