"""Which order of several may start the next task: one task for each worker, older orders first."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_FRESH_SECONDS: Final = 1.0


class Slots:
    """Counts tasks, so that none waits at a busy worker while another worker is free.

    Dask would hand out all tasks at once, and take them away from one worker for another as times
    turn out; a task takes minutes, so the time to ask for the next one does not count.
    """

    def __init__(self, capacity: Callable[[], int]) -> None:
        """`capacity` asks how many workers there are now; it is asked once a second."""
        self._ask = capacity
        self._lock = threading.Lock()
        self._known = 0
        self._asked = float("-inf")
        self._running = 0
        self._waiting: set[int] = set()
        self._orders = 0
        self.idle_since: float | None = None
        """Since when there is no worker at all."""

    def enter(self) -> int:
        """Return the number of a new order."""
        with self._lock:
            self._orders += 1
            self._waiting.add(self._orders)
            return self._orders

    def leave(self, order: int) -> None:
        """Let later orders start: this one has no task left to start."""
        with self._lock:
            self._waiting.discard(order)

    def take(self, order: int) -> bool:
        """Take a free slot; False if there is none, or if it belongs to an older order."""
        with self._lock:
            capacity = self._capacity()
            if self._running >= capacity or order != min(self._waiting, default=order):
                return False
            self._running += 1
            return True

    def give_back(self) -> None:
        """Give back a slot that was taken."""
        with self._lock:
            self._running -= 1

    def _capacity(self) -> int:
        now = time.monotonic()
        if now - self._asked >= _FRESH_SECONDS:
            self._known, self._asked = self._ask(), now
            if self._known:
                self.idle_since = None
            elif self.idle_since is None:
                self.idle_since = now
        return self._known


def heaviest_first(groups: list[list[str]]) -> list[list[str]]:
    """Return groups with the most cases first: what ends a run should be small."""
    return sorted(groups, key=len, reverse=True)
