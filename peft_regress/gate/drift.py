"""Slow drift: the older entry that each metric is compared with, too. Pure.

Changes within a metric's bound pass one by one, and each accepted entry would make them normal. So
a metric is also compared with its origin: the oldest entry since which the gate has not reported a
change. When the gate reports a change, beyond the bound or beyond the drift budget, a user accepts
it with a reason, and the accepted entry is the new origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from peft_regress.gate.bounds import Bounds
from peft_regress.gate.changes import are_comparable, change_of, direction_of
from peft_regress.gate.inputs import OF_INPUTS, first_difference
from peft_regress.gate.policy import DEFAULT_POLICY, Policy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peft_regress.gate.changes import Change
    from peft_regress.metrics import Kind, Metric
    from peft_regress.runs.schema import Record

_CAN_DRIFT: frozenset[Kind] = frozenset({"bytes", "fingerprint", "accuracy", "score"})
"""The kinds that can change unreported. Exact metrics cannot, unless their author states a bound;
seconds depend on the machine."""


class Origin(NamedTuple):
    """A metric as it was in the entry that its drift counts from."""

    metric: Metric
    entry: str

    @property
    def of_inputs(self) -> bool:
        """Whether the metric depends on the weights and the data that go in."""
        return self.metric.kind in OF_INPUTS


def find_origins(
    history: Iterable[tuple[str, Record]], *, policy: Policy = DEFAULT_POLICY
) -> dict[str, Origin]:
    """Return the origin of each metric of one case if it is older than the newest entry.

    `history`: the accepted records of the case as (entry, record), oldest first. They are judged
    again as the gate judged them: at most two comparisons for each entry and metric.
    """
    origins: dict[str, Origin] = {}
    before: Record | None = None
    for entry, record in history:
        if before is None or before.definition != record.definition:
            origins = {}
        elif first_difference(before, record) is not None:
            # What depends on the inputs was not compared.
            origins = {name: one for name, one in origins.items() if not one.of_inputs}
        bounds = Bounds.of(record, policy)
        origins = {
            name: _next_origin(
                name,
                origins.get(name),
                None if before is None else before.metrics.get(name),
                Origin(metric, entry),
                bounds,
            )
            for name, metric in record.metrics.items()
            if metric.kind in _CAN_DRIFT or (metric.kind == "exact" and name in bounds.own)
        }
        before = record
    newest = {} if before is None else before.metrics
    return {name: origin for name, origin in origins.items() if origin.metric is not newest[name]}


def drift_of(name: str, origin: Origin, new: Metric, bounds: Bounds) -> Change:
    """Return how far a metric is from its origin; the bound is the drift budget."""
    change = change_of(name, origin.metric, new, bounds)
    return change._replace(bound=change.bound * bounds.policy.drift_budget)


def _next_origin(
    name: str, origin: Origin | None, before: Metric | None, here: Origin, bounds: Bounds
) -> Origin:
    """Return the origin after one more entry: the same, or this entry if the gate reported it."""
    metric = here.metric
    if origin is None or before is None or not are_comparable(before, metric):
        return here
    if metric == before:
        return origin
    if not bounds.judges(name, metric):
        return here
    step = change_of(name, before, metric, bounds)
    if direction_of(step, metric):
        return here
    # If the origin is the entry before, the bound has judged this step already.
    if origin.metric is not before or bounds.policy.drift_budget < 1:
        drift = drift_of(name, origin, metric, bounds)
        if direction_of(drift, metric):
            return here
    return origin
