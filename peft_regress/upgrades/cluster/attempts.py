"""What runs where, and whether two attempts at one task measured the same.

A task whose worker is lost starts again on another one. What the first worker had told of it is
measured twice then, and exact metrics must be equal.
"""

from __future__ import annotations

import threading

import msgspec

from peft_regress.runs.schema import Record
from peft_regress.text import clean
from peft_regress.upgrades.cluster.messages import Progress, TaskResult


class Attempts:
    """The attempts at each task, and what the nodes tell of them. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._measured: dict[tuple[str, str], list[Progress]] = {}
        """What was told of each task and case."""
        self.lost = 0
        """How many attempts ended with their workers."""

    def started(self, key: str) -> None:
        """Take a task that was handed to Dask."""
        with self._lock:
            self._running.add(key)

    def told(self, message: str) -> None:
        """Take what a node tells; what is no progress is not compared."""
        try:
            progress = msgspec.json.decode(message, type=Progress)
        except (msgspec.DecodeError, TypeError):
            return
        with self._lock:
            self._measured.setdefault((progress.key, progress.case), []).append(progress)

    def ended(self, key: str, *, is_lost: bool = False) -> None:
        """Forget what ran for a task."""
        with self._lock:
            self._running.discard(key)
            self.lost += is_lost

    @property
    def running(self) -> int:
        """How many tasks were started and have not ended."""
        with self._lock:
            return len(self._running)

    def disagreement(self, key: str, result: TaskResult, record: Record) -> str | None:
        """Return how a record differs from what another attempt told of it; None if it does not."""
        mine = exact_metrics(record)
        with self._lock:
            others = list(self._measured.get((key, record.case.id), ()))
        for other in others:
            if other.attempt == result.attempt or other.exact == mine:
                continue
            names = sorted(mine.keys() | other.exact.keys())
            name = next(name for name in names if mine.get(name) != other.exact.get(name))
            one, two = (_shown(exact.get(name)) for exact in (other.exact, mine))
            return clean(
                f"{record.case.id}: {name} is {one} on {other.node} and {two} on {result.node}, "
                "which must be equal; measure it again on each of them",
                longest=600,
            )
        return None


def exact_metrics(record: Record) -> dict[str, int | float]:
    """Return the metrics that are equal wherever a case is measured."""
    return {name: one.value for name, one in record.metrics.items() if one.kind == "exact"}


def _shown(value: float | None) -> str:
    return "absent" if value is None else f"{value:,}"
