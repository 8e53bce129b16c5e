"""How far a metric changed and how far it may, in one step and over many. Pure.

Changes within a metric's bound pass one by one, and each accepted entry would make them normal. So
a metric is also compared with its origin: the oldest entry since which the gate has not reported a
change. When the gate reports a change, beyond the bound or beyond the drift budget, a user accepts
it with a reason, and the accepted entry is the new origin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from peft_regress.gate.inputs import OF_INPUTS, first_difference
from peft_regress.gate.policy import DEFAULT_POLICY, Bounds, Policy
from peft_regress.gate.verdicts import Change, Origin
from peft_regress.metrics import Kind, Metric, MetricSpec
from peft_regress.runs.schema import Record


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


_CAN_DRIFT: frozenset[Kind] = frozenset({"bytes", "fingerprint", "accuracy", "score"})
"""The kinds that can change unreported. Exact metrics cannot, unless their author states a bound;
seconds depend on the machine."""


def next_origins(
    older: Mapping[str, Origin],
    before: tuple[str, Record] | None,
    here: tuple[str, Record],
    *,
    policy: Policy = DEFAULT_POLICY,
) -> dict[str, Origin]:
    """Return the origins that are older than one more entry, `here`.

    `older` are those that are older than the entry before it; None is before the first entry. A
    metric without an older origin has the newest entry as its origin.
    """
    if before is None or before[1].definition != here[1].definition:
        return {}
    entry, old = before
    record = here[1]
    same_inputs = first_difference(old, record) is None
    was, bounds = Bounds.of(old, policy), Bounds.between(old, record, policy)
    # An origin that is too far by the bounds of what comes next would be an alarm for ever.
    judging = Bounds.of(record, policy)
    found = {}
    for name, metric in record.metrics.items():
        last = old.metrics.get(name)
        if last is None or not (_can_drift(name, last, was) and _can_drift(name, metric, bounds)):
            continue
        if not same_inputs and metric.kind in OF_INPUTS:
            continue  # what depends on the inputs was not compared
        origin = older.get(name) or Origin(last, entry)
        if _stays(name, origin, last, metric, bounds) and (
            bounds == judging
            or direction_of(drift_of(name, origin, metric, judging), metric) is None
        ):
            found[name] = origin
    return found


def _can_drift(name: str, metric: Metric, bounds: Bounds) -> bool:
    return metric.kind in _CAN_DRIFT or (metric.kind == "exact" and name in bounds.own)


def drift_of(name: str, origin: Origin, new: Metric, bounds: Bounds) -> Change:
    """Return how far a metric is from its origin; the bound is the drift budget."""
    change = change_of(name, origin.metric, new, bounds)
    return change._replace(bound=change.bound * bounds.policy.drift_budget)


def _stays(name: str, origin: Origin, before: Metric, metric: Metric, bounds: Bounds) -> bool:
    """Return whether an origin stays after one more entry: whether the gate reported no change."""
    if metric == before:
        return True
    if not are_comparable(before, metric):
        return False
    if not bounds.judges(name, metric):
        return False
    if direction_of(change_of(name, before, metric, bounds), metric):
        return False
    # If the origin is the entry before, the bound has judged this step already.
    if origin.metric is before and bounds.policy.drift_budget >= 1:
        return True
    return direction_of(drift_of(name, origin, metric, bounds), metric) is None
