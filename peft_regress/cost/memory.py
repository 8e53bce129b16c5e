"""What a log of allocations says: each category's high, the simultaneous peak, who held it.

Pure functions over plain values, so that they are tested without a tensor. Bytes are those of
storages, as asked for: a view is free, and no allocator's rounding is added (torch's CPU allocator
rounds nothing off in its own accounts; `MemTracker` rounds on CUDA only).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["CATEGORIES", "ByteSite", "Category", "MemoryEvent", "MemorySummary", "summarize_memory"]

Category = Literal["param", "buffer", "grad", "activation", "temp", "optimizer"]

CATEGORIES: tuple[Category, ...] = (
    "param",
    "buffer",
    "grad",
    "activation",
    "temp",
    "optimizer",
)


class MemoryEvent(NamedTuple):
    """One change of what is alive.

    A free carries a negative `delta_bytes`. A change of category is two events, the loss first, so
    that the total never shows a tensor twice.
    """

    delta_bytes: int
    category: Category
    module: str
    operator: str = ""
    """What allocated it; '' for what was there before the step."""


class ByteSite(NamedTuple):
    """Bytes in one category that one operator allocated for one module.

    Module '' is outside any; operator '' is what was there before the step. The category says in
    which phase it was allocated: activations in the forward pass, temporaries and gradients in the
    backward pass, the optimizer's in `step()`.
    """

    category: Category
    module: str
    operator: str
    bytes: int

    @property
    def what(self) -> str:
        """Name category and operator, such as 'activation aten.convolution', or the category."""
        return f"{self.category} {self.operator}".rstrip()


@dataclass(frozen=True, kw_only=True)
class MemorySummary:
    """What a stretch of the log says; every number in bytes."""

    peak_bytes: int
    """The most that was alive at one time."""
    high_bytes: Mapping[Category, int]
    """Each category's own maximum, whenever it occurs."""
    end_bytes: Mapping[Category, int]
    """What is alive in each category after the last event."""
    peak_index: int
    """How many events the first moment of the peak comes after."""
    sites_at_peak: tuple[ByteSite, ...]
    """What was alive at that moment; sums to `peak_bytes`. Sorted."""
    sites_at_highs: tuple[ByteSite, ...]
    """Who held each category at the first moment of its own high; sums to `high_bytes`. Sorted."""
    sites_at_end: tuple[ByteSite, ...]
    """What is alive after the last event; sums to `end_bytes`. Sorted."""


def summarize_memory(events: Sequence[MemoryEvent], *, start: int = 0) -> MemorySummary:
    """Summarize the events from `start` on, so that one step can be told from those before it.

    Events before `start` count as already alive: the state they leave takes part in the maxima.

    Raises:
        ValueError: `start` lies outside the log, or a category falls below zero bytes.
    """
    if not 0 <= start <= len(events):
        message = f"start {start} lies outside a log of {len(events)} events"
        raise ValueError(message)
    alive: dict[Category, int] = dict.fromkeys(CATEGORIES, 0)
    for event in events[:start]:
        _apply(alive, event)
    high = dict(alive)
    high_index = dict.fromkeys(CATEGORIES, start)
    total = peak = sum(alive.values())
    peak_index = start
    for index, event in enumerate(events[start:], start + 1):
        _apply(alive, event)
        if alive[event.category] > high[event.category]:
            high[event.category], high_index[event.category] = alive[event.category], index
        total += event.delta_bytes
        if total > peak:
            peak, peak_index = total, index
    return MemorySummary(
        peak_bytes=peak,
        high_bytes=high,
        end_bytes=alive,
        peak_index=peak_index,
        sites_at_peak=_sites(events[:peak_index]),
        sites_at_highs=_sites(
            event for index, event in enumerate(events, 1) if index <= high_index[event.category]
        ),
        sites_at_end=_sites(events),
    )


def _apply(alive: dict[Category, int], event: MemoryEvent) -> None:
    alive[event.category] += event.delta_bytes
    if alive[event.category] < 0:
        message = f"more {event.category} bytes were freed than allocated, at {event}"
        raise ValueError(message)


def _sites(events: Iterable[MemoryEvent]) -> tuple[ByteSite, ...]:
    held: Counter[tuple[Category, str, str]] = Counter()
    for delta_bytes, category, module, operator in events:
        held[category, module, operator] += delta_bytes
    return tuple(sorted(ByteSite(*site, held[site]) for site in held if held[site]))
