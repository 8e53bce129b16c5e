"""Summarize a log of allocations: each category's high, the simultaneous peak, who held it.

Pure functions over plain values, so that tests need no tensors. Bytes are the requested sizes of
storages: a view is free, and an allocator's rounding is not added (torch's CPU allocator does not
round its own accounts; `MemTracker` rounds on CUDA only).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Category = Literal["param", "buffer", "grad", "activation", "temp", "optimizer"]

CATEGORIES: tuple[Category, ...] = get_args(Category)


class MemoryEvent(NamedTuple):
    """One allocation or, with a negative `delta_bytes`, one free.

    A change of category is two events, the free first, so that the total never counts a tensor
    twice.
    """

    delta_bytes: int
    category: Category
    module: str
    operator: str = ""
    """What allocated it; '' for what existed before the step."""


class ByteSite(NamedTuple):
    """Bytes in one category that one operator allocated for one module.

    Module '' is outside any; operator '' is what existed before the step. The category tells the
    phase of the allocation: activations in the forward pass, temporaries and gradients in the
    backward pass, the optimizer's in `step()`.
    """

    category: Category
    module: str
    operator: str
    bytes: int

    @property
    def what(self) -> str:
        """Return 'activation aten.convolution', or the category if there is no operator."""
        return f"{self.category} {self.operator}".rstrip()


@dataclass(frozen=True, kw_only=True)
class MemorySummary:
    """The memory of a part of the log, in bytes."""

    peak_bytes: int
    """The most that was alive at one time."""
    high_bytes: Mapping[Category, int]
    """Each category's own maximum, at whatever moment."""
    end_bytes: Mapping[Category, int]
    """The bytes alive in each category after the last event."""
    peak_index: int
    """The number of events before the first moment of the peak, the last one included."""
    sites_at_peak: tuple[ByteSite, ...]
    """What was alive at that moment; sums to `peak_bytes`. Sorted."""
    sites_at_highs: tuple[ByteSite, ...]
    """Who held each category at the first moment of its own high; sums to `high_bytes`. Sorted."""
    sites_at_end: tuple[ByteSite, ...]
    """What is alive after the last event; sums to `end_bytes`. Sorted."""


def summarize_memory(events: Sequence[MemoryEvent], *, start: int = 0) -> MemorySummary:
    """Summarize the events from `start` on: one step without those before it.

    What is alive at `start` counts in the maxima.

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
        sites_at_peak=sites_of(events[:peak_index]),
        sites_at_highs=sites_of(
            event for index, event in enumerate(events, 1) if index <= high_index[event.category]
        ),
        sites_at_end=sites_of(events),
    )


def peak_of(events: Sequence[MemoryEvent], *, start: int, end: int) -> int:
    """Return the most bytes alive at one moment from the `start`th event to the `end`th."""
    alive = itertools.accumulate((event.delta_bytes for event in events), initial=0)
    return max(itertools.islice(alive, start, end + 1))


def _apply(alive: dict[Category, int], event: MemoryEvent) -> None:
    alive[event.category] += event.delta_bytes
    if alive[event.category] < 0:
        message = f"more {event.category} bytes were freed than allocated, at {event}"
        raise ValueError(message)


def sites_of(events: Iterable[MemoryEvent]) -> tuple[ByteSite, ...]:
    """Return what is alive after these events. Sorted."""
    held: Counter[tuple[Category, str, str]] = Counter()
    for delta_bytes, category, module, operator in events:
        held[category, module, operator] += delta_bytes
    return tuple(sorted(ByteSite(*site, held[site]) for site in held if held[site]))
