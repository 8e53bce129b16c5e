"""Which worker takes a task of which order: one task for each worker, like to like.

A worker keeps the process and the environment of its last task, so it goes on with the same order
while that has tasks; then it helps the order that fewest workers work for. Tasks are handed out one
by one, by this rule alone: Dask would hand out all of them at once and then move them between
workers as times turn out. A task takes minutes, so the time to ask for the next one does not count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

_FRESH_SECONDS: Final = 1.0


@dataclass
class _Order:
    environment: str
    wake: Callable[[], None]
    running: int = 0
    wants_more: bool = True


class Slots:
    """The workers, and what they do. Any thread may ask."""

    def __init__(self, workers: Callable[[], Collection[str]]) -> None:
        """`workers` asks which workers there are now; it is asked once a second."""
        self._ask = workers
        self._lock = threading.Lock()
        self._known: frozenset[str] = frozenset()
        self._asked = float("-inf")
        self._busy: set[str] = set()
        self._last: dict[str, str] = {}
        """The environment of each worker's last task."""
        self._orders: dict[int, _Order] = {}
        self._count = 0
        self._empty_since: float | None = None

    def enter(self, environment: str, wake: Callable[[], None]) -> int:
        """Return the number of a new order; `wake` is called when a worker is free again."""
        with self._lock:
            self._count += 1
            self._orders[self._count] = _Order(environment, wake)
            return self._count

    def want(self, number: int, *, more: bool) -> None:
        """Say whether an order has tasks left to start; a worker goes to those that have."""
        with self._lock:
            self._orders[number].wants_more = more

    def leave(self, number: int) -> None:
        """Forget an order."""
        with self._lock:
            self._orders.pop(number, None)

    def take(self, number: int) -> str | None:
        """Return a worker for an order's next task; None if none is free for it."""
        with self._lock:
            self._refresh()
            order = self._orders[number]
            free = sorted(
                self._known - self._busy,
                key=lambda name: (
                    self._last.get(name) != order.environment,
                    name in self._last,
                    name,
                ),
            )
            found = next((name for name in free if self._next_order(name) == number), None)
            if found is not None:
                self._busy.add(found)
                self._last[found] = order.environment
                order.running += 1
            return found

    def give_back(self, number: int, worker: str) -> None:
        """Let others take a worker."""
        with self._lock:
            self._busy.discard(worker)
            if number in self._orders:
                self._orders[number].running -= 1
            waiting = [order.wake for order in self._orders.values() if order.wants_more]
        for wake in waiting:
            wake()

    def has(self, worker: str) -> bool:
        """Return whether a worker is still there."""
        with self._lock:
            self._refresh()
            return worker in self._known

    @property
    def seconds_empty(self) -> float:
        """For how long there has been no worker at all."""
        with self._lock:
            return 0.0 if self._empty_since is None else time.monotonic() - self._empty_since

    def _next_order(self, worker: str) -> int | None:
        """Return the order that a free worker belongs to."""
        last = self._last.get(worker)
        ranked = (
            (order.environment != last, order.running, number)
            for number, order in self._orders.items()
            if order.wants_more
        )
        return min(ranked, default=(False, 0, None))[2]

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._asked < _FRESH_SECONDS:
            return
        self._known, self._asked = frozenset(self._ask()), now
        if self._known:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now


def heaviest_first(groups: list[list[str]]) -> list[list[str]]:
    """Return groups with the most cases first: what ends a run should be small."""
    return sorted(groups, key=len, reverse=True)
