"""A worker for each of two sides, which take turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from peft_regress.workers.pool import Environment, Seat
from peft_regress.workers.process import WorkerProcess

_Found = TypeVar("_Found")


class Pair:
    """A seat for each of two sides; whoever makes it closes it."""

    def __init__(self, base: Environment, other: Environment, *, time_limit: float) -> None:
        self._scratch = tempfile.TemporaryDirectory(
            prefix="peft-regress-", ignore_cleanup_errors=True
        )
        folder = Path(self._scratch.name)
        self._environments = (base, other)
        self._seats = [Seat(folder, time_limit=time_limit) for _ in range(2)]

    def close(self) -> None:
        """End both workers."""
        for seat in self._seats:
            seat.close()
        self._scratch.cleanup()

    def stop(self) -> None:
        """End both workers, also while another thread waits for an answer; none starts again."""
        for seat in self._seats:
            seat.stop()

    def worker(self, side: int) -> WorkerProcess:
        """Return the worker of a side, 0 for the base; a new one if the last one was lost.

        Raises `UnusableEnvironmentError` if none can be started.
        """
        return self._seats[side].worker(self._environments[side])

    @property
    def workers(self) -> tuple[WorkerProcess, WorkerProcess]:
        """Both workers; raises as `worker` does."""
        return self.worker(0), self.worker(1)

    def in_turns(
        self, base_first: Sequence[bool], act: Callable[[WorkerProcess], _Found]
    ) -> list[tuple[_Found, _Found]]:
        """Let both sides act, one after the other, and return what base and other gave each time.

        base_first: for each time, whether the base goes first.
        """
        base, other = self.workers
        found = []
        for is_first in base_first:
            turn = {one: act(one) for one in ((base, other) if is_first else (other, base))}
            found.append((turn[base], turn[other]))
        return found
