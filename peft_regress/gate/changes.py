"""How far a metric changed and how far it may, by its kind: what the gate judges by. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from peft_regress.metrics import Metric, MetricSpec

if TYPE_CHECKING:
    from peft_regress.gate.bounds import Bounds


class Change(NamedTuple):
    """How far a metric changed, and how far it may."""

    old: float
    new: float
    relative: float | None
    """The relative change; of a fraction or a score the difference. None if `old` is zero."""
    bound: float


def direction_of(change: Change, metric: Metric) -> Literal["worse", "better"] | None:
    """Return which way a metric changed beyond its bound; None if it did not."""
    signed = change.new - change.old if change.relative is None else change.relative
    if not _is_beyond(change, metric) or not signed:
        return None
    # Written so that NaN is worse.
    is_better = signed > 0 if metric.direction == "higher" else signed < 0
    return "better" if is_better and metric.direction != "same" else "worse"


def _is_beyond(change: Change, metric: Metric) -> bool:
    if change.relative is None:
        # From zero to something: no ratio says how far, so any change is beyond every bound.
        return True
    if metric.kind == "seconds":
        # As a ratio, so that three times as fast is as far as three times as slow.
        old, new = change.old, change.new
        return (max(new / old, old / new) if new else math.inf) - 1 > change.bound
    return not abs(change.relative) <= change.bound  # so that NaN is beyond


def change_of(name: str, old: Metric, new: Metric, bounds: Bounds) -> Change:
    """Return how far a metric changed and how far it may, by its kind."""
    if old.kind == "fingerprint":
        return _fingerprint_change(name, old, new, bounds)
    (bound,) = bounds.on(name, old)
    if old.kind in {"accuracy", "score"}:
        # Paired by seed: both sides start from the same bytes and draw the same batches.
        pairs = list(zip(_flat(old), _flat(new), strict=True))
        difference = sum(b - a for a, b in pairs) / len(pairs)
        if is_absolute(old):
            return Change(old.value, new.value, difference, bound)
        if abs(difference) <= bounds.rounding_of(name):
            difference = 0.0
        relative = _relative(difference, max(abs(old.value), bounds.floor_of(name)))
        return Change(old.value, new.value, relative, bound)
    # Of seconds the fastest seed of each side: noise only ever adds time.
    before, after = value_of(old), value_of(new)
    return Change(before, after, _relative(after - before, abs(before)), bound)


def is_absolute(metric: Metric | MetricSpec) -> bool:
    """Return whether the change of a metric is a difference, and not relative to its value."""
    return metric.kind == "score" or (metric.kind == "accuracy" and metric.unit == "fraction")


def _fingerprint_change(name: str, old: Metric, new: Metric, bounds: Bounds) -> Change:
    """Return the change of the loss, over all seeds and steps, that comes nearest to its bound.

    Training amplifies rounding, so each step has its own bound.
    """
    nearest = Change(old.value, new.value, 0.0, bounds.on_fingerprint(name, 0))
    of_bound = 0.0
    # Looked up once for each step, not for each seed: a long history asks often.
    of_steps = bounds.on(name, old)
    floor, rounding = bounds.floor_of(name), bounds.rounding_of(name)
    for before, after in zip(old.by_seed, new.by_seed, strict=True):
        for a, b, bound in zip(before, after, of_steps, strict=False):
            if a == b or abs(b - a) <= rounding:
                continue
            change = _relative(b - a, max(abs(a), floor))
            # A bound of one's own may be 0.
            share = abs(change) / bound if change is not None and bound else math.inf
            if not share <= of_bound:
                share = math.inf if math.isnan(share) else share
                nearest, of_bound = Change(a, b, change, bound), share
    return nearest


def _relative(difference: float, size: float) -> float | None:
    """Return a difference relative to a size; None if that is zero or close to it."""
    if not difference:
        return 0.0
    change = difference / size if size else math.inf
    return None if math.isinf(change) else change


def value_of(metric: Metric) -> float:
    """Return the number that a metric is judged by: of seconds that of the fastest seed."""
    return min(_flat(metric)) if metric.kind == "seconds" else metric.value


def are_comparable(old: Metric, new: Metric) -> bool:
    """Return whether a metric is defined equally on both sides, with as many samples."""
    return (
        old.unit == new.unit
        and old.direction == new.direction
        and old.kind == new.kind
        and have_same_shape(old, new)
    )


def have_same_shape(old: Metric, new: Metric) -> bool:
    """Return whether both sides have as many seeds, and each as many values."""
    if old.samples is None and new.samples is None:
        return True

    def shape(metric: Metric) -> list[int]:
        return [len(s) if isinstance(s, list) else -1 for s in metric.samples or ()]

    return shape(old) == shape(new)


def _flat(metric: Metric) -> list[float]:
    """Return a metric's samples in one list, or its value if it has none."""
    return [sample for seed in metric.by_seed for sample in seed]
