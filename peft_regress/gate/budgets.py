"""How much a case uses of its budget, and what is over it. Pure.

A budget judges the measured numbers alone: no reference excuses them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from peft_regress.gate.changes import is_absolute
from peft_regress.gate.fits import needs_of
from peft_regress.gate.verdicts import Reason, Remark
from peft_regress.metrics import METRICS, MetricSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from peft_regress.devices import DeviceClass
    from peft_regress.metrics import Metric
    from peft_regress.runs.schema import Limits, Record

UPDATE: Final = ("forward_flops", "backward_flops", "optimizer_flops")
"""The metrics that add up to the FLOPs of one update."""
_BYTES: Final = METRICS["peak_bytes"]
_FLOPS: Final = METRICS["forward_flops"]


@dataclass(frozen=True, kw_only=True)
class BudgetUse:
    """One part of a case's budget, and what the case uses of it."""

    name: str
    """`peak`, `update`, `ship`, `score`, `edge_train`, or `memory` or `storage` of a device."""
    value: float | None
    """None if it was not measured."""
    limit: float | None
    """The most, of a score the least; None if nothing is known of the device."""
    spec: MetricSpec

    @property
    def part(self) -> str:
        """The same without the device."""
        return self.name.partition(" ")[0]

    @property
    def is_judged(self) -> bool:
        """Whether both the value and the limit are known."""
        return self.value is not None and self.limit is not None

    @property
    def over_by(self) -> float | None:
        """By how much the value is beyond the limit; below 0 is room that is left."""
        if self.value is None or self.limit is None:
            return None
        beyond = self.value - self.limit
        return -beyond if self.is_least else beyond

    @property
    def is_least(self) -> bool:
        """Whether the limit is the least that the value may be, and not the most."""
        return self.name == "score"

    @property
    def is_over(self) -> bool:
        """Whether the value is beyond the limit."""
        return self.over_by is not None and self.over_by > 0

    @property
    def share(self) -> float | None:
        """The used share of the budget, more than 1 if it is over; None where no ratio says it."""
        if self.value is None or self.limit is None:
            return None
        used, most = self.value, self.limit
        if self.is_least:
            used, most = most, used
        return used / most if used >= 0 and most > 0 else None


def budget_of(record: Record, devices: Iterable[DeviceClass] = ()) -> tuple[BudgetUse, ...]:
    """Return what a case uses of each part of its budget; empty without a budget."""
    limits = record.budget
    return () if limits is UNSET else tuple(_uses(record, limits, devices))


def _uses(record: Record, limits: Limits, devices: Iterable[DeviceClass]) -> Iterator[BudgetUse]:
    metrics = record.metrics
    measured: tuple[tuple[str, float | None, float | None, MetricSpec], ...] = (
        ("peak", _value(metrics.get("peak_bytes")), limits.peak, _BYTES),
        ("update", update_flops(record), limits.update, _FLOPS),
        ("ship", _value(metrics.get("adapter_bytes")), limits.ship, _BYTES),
        ("edge_train", _value(metrics.get("edge_train_bytes")), limits.edge_train, _BYTES),
    )
    for name, value, limit, spec in measured:
        if limit is not None:
            yield BudgetUse(name=name, value=value, limit=limit, spec=spec)
    if limits.score is not None:
        score = metrics.get("score") or metrics.get("accuracy")
        spec = METRICS["score"] if score is None else score.spec
        yield BudgetUse(name="score", value=_value(score), limit=limits.score, spec=spec)
    if limits.device is not None:
        found = next((one for one in devices if one.name == limits.device), None)
        for need in needs_of(record):
            limit = None if found is None else need.limit_of(found)
            if found is None or limit is not None:
                name = f"{need.name} of {limits.device}"
                yield BudgetUse(name=name, value=need.value, limit=limit, spec=_BYTES)


def update_flops(record: Record) -> float | None:
    """Return the FLOPs of one update; None if a part of them was not measured."""
    values = [_value(record.metrics.get(name)) for name in UPDATE]
    return None if None in values else sum(value for value in values if value is not None)


def _value(metric: Metric | None) -> float | None:
    return None if metric is None else metric.value


def over_budget_reasons(
    old: Record | None, new: Record, devices: Sequence[DeviceClass]
) -> Iterator[Reason]:
    """Yield a reason for each part of a budget that is exceeded, with the reference's value."""
    before: dict[str, float | None] = {}
    if old is not None:
        under_new = msgspec.structs.replace(old, budget=new.budget)
        before = {use.name: use.value for use in budget_of(under_new, devices)}
    for use in budget_of(new, devices):
        if use.is_over and use.value is not None:
            was = before.get(use.name)
            yield Reason(
                metric=f"budget {use.name}",
                old=was,
                new=use.value,
                relative_change=_change(was, use),
                verdict="over_budget",
                spec=use.spec,
                limit=use.limit,
            )


def _change(was: float | None, use: BudgetUse) -> float | None:
    if was is None or use.value is None:
        return None
    change = use.value - was
    if not is_absolute(use.spec):
        change = change / abs(was) if was else math.inf
    return change if math.isfinite(change) else None


def budget_remarks(
    old: Record | None, new: Record, devices: Sequence[DeviceClass]
) -> Iterator[Remark]:
    """Yield what of a budget is not judged, and what is looser than in the reference."""
    limits = {use.part: use for use in budget_of(new, devices)}
    for use in limits.values():
        if not use.is_judged:
            text = "not measured" if use.limit is not None else "no such device class"
            yield Remark(kind="not judged", subject=f"budget {use.name}", text=text)
    for was in () if old is None else budget_of(old, devices):
        now = limits.get(was.part)
        if was.limit is not None and (now is None or _is_looser(was, now)):
            yield Remark(
                kind="looser budget",
                subject=f"budget {was.name}",
                old=was.limit,
                new=None if now is None else now.limit,
                spec=was.spec,
            )


def _is_looser(old: BudgetUse, new: BudgetUse) -> bool:
    if old.limit is None or new.limit is None:
        return new.limit is None
    return new.limit < old.limit if new.is_least else new.limit > old.limit
