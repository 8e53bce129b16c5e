"""Slow drift: which older entry each metric is also held against. Pure.

Moves within a metric's bound pass one by one, and entries accepted for other reasons would make
each of them the new normal. So a metric is held against its origin too: the oldest entry since
which nobody was told that it moved. Where the gate did report a move, beyond the bound or beyond
the drift budget, `accept` took it with a reason, and the origin is the entry that was accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from peft_regress.gate.changes import are_comparable, change_of, direction_of
from peft_regress.gate.policy import DEFAULT_POLICY, Policy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peft_regress.gate.changes import Change
    from peft_regress.metrics import Kind, Metric
    from peft_regress.runs.schema import Record

__all__ = ["Origin", "drift_of", "find_origins"]

_CAN_DRIFT: frozenset[Kind] = frozenset({"bytes", "fingerprint", "accuracy"})
"""What has room to move unreported. An exact metric has none; seconds are the machine's."""


class Origin(NamedTuple):
    """A metric as it was in the entry that its drift counts from."""

    metric: Metric
    entry: str


def find_origins(
    history: Iterable[tuple[str, Record]], *, policy: Policy = DEFAULT_POLICY
) -> dict[str, Origin]:
    """Return the origin of each metric of one case that has an older one than the newest entry.

    `history` is what was accepted of the case as (entry, record), oldest first. It is replayed as
    the gate saw it: two comparisons an entry and metric at most.
    """
    origins: dict[str, Origin] = {}
    before: Record | None = None
    for entry, record in history:
        if before is None or before.definition != record.definition:
            origins = {}
        origins = {
            name: _next_origin(
                name,
                origins.get(name),
                None if before is None else before.metrics.get(name),
                Origin(metric, entry),
                method=record.case.method,
                policy=policy,
            )
            for name, metric in record.metrics.items()
            if metric.kind in _CAN_DRIFT
        }
        before = record
    newest = {} if before is None else before.metrics
    return {name: origin for name, origin in origins.items() if origin.metric is not newest[name]}


def drift_of(name: str, origin: Origin, new: Metric, *, method: str, policy: Policy) -> Change:
    """Return how far a metric of that name is from its origin; its bound is the budget."""
    change = change_of(name, origin.metric, new, method=method, policy=policy)
    return change._replace(bound=change.bound * policy.drift_budget)


def _next_origin(  # noqa: PLR0913  (what a judgement depends on)
    name: str,
    origin: Origin | None,
    before: Metric | None,
    here: Origin,
    *,
    method: str,
    policy: Policy,
) -> Origin:
    """Return the origin after one more entry: the old one, or the entry where the gate spoke up."""
    metric = here.metric
    if origin is None or before is None or not are_comparable(before, metric):
        return here
    if metric == before:
        return origin
    step = change_of(name, before, metric, method=method, policy=policy)
    if direction_of(step, metric):
        return here
    # The step from the origin itself is judged already, by the bound.
    if origin.metric is not before or policy.drift_budget < 1:
        drift = drift_of(name, origin, metric, method=method, policy=policy)
        if direction_of(drift, metric):
            return here
    return origin
