"""Slow drift: the older entry that each metric is compared with, too. Pure.

Changes within a metric's bound pass one by one, and each accepted entry would make them normal. So
a metric is also compared with its origin: the oldest entry since which the gate has not reported a
change. When the gate reports a change, beyond the bound or beyond the drift budget, a user accepts
it with a reason, and the accepted entry is the new origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from peft_regress.gate.bounds import Bounds
from peft_regress.gate.changes import Change, are_comparable, change_of, direction_of
from peft_regress.gate.inputs import OF_INPUTS, first_difference
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.metrics import Kind, Metric
from peft_regress.runs.schema import Record

_CAN_DRIFT: frozenset[Kind] = frozenset({"bytes", "fingerprint", "accuracy", "score"})
"""The kinds that can change unreported. Exact metrics cannot, unless their author states a bound;
seconds depend on the machine."""


class Origin(NamedTuple):
    """A metric as it was in the entry that its drift counts from."""

    metric: Metric
    entry: str


def find_origins(
    history: Iterable[tuple[str, Record]], *, policy: Policy = DEFAULT_POLICY
) -> dict[str, Origin]:
    """Return the origin of each metric of one case if it is older than the newest entry.

    `history`: the accepted records of the case as (entry, record), oldest first. They are judged
    again as the gate judged them: at most two comparisons for each entry and metric.
    """
    older: dict[str, Origin] = {}
    before: tuple[str, Record] | None = None
    for here in history:
        older = next_origins(older, before, here, policy=policy)
        before = here
    return older


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
