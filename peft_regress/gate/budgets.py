"""How much of its budget a case uses, and on which devices it fits. Pure.

A budget judges the measured numbers alone: no reference excuses them. A share is of what the same
run measured of the other case, or else of the other case's reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from peft_regress.budgets import SHARES
from peft_regress.devices import DeviceClass
from peft_regress.gate.changes import is_absolute
from peft_regress.gate.verdicts import BudgetUse, Observation, Reason, Remark
from peft_regress.metrics import BATCH_SUFFIX, METRICS, Metric, MetricSpec
from peft_regress.runs.schema import Limits, Record

_COSTS: Final = {
    "peak_of": "peak_bytes",
    "peak_b32_of": f"peak_bytes{BATCH_SUFFIX}",
    "ship_of": "adapter_bytes",
}
UPDATE: Final = ("forward_flops", "backward_flops", "optimizer_flops")
"""The metrics that add up to the FLOPs of one update."""
_BYTES: Final = METRICS["peak_bytes"]
_FLOPS: Final = METRICS["forward_flops"]
_SHARE: Final = MetricSpec(unit="fraction", direction="lower", kind="score")


class Others(NamedTuple):
    """The case that a budget's shares refer to, as each side has it; None if it has none."""

    old: Record | None = None
    new: Record | None = None

    @classmethod
    def of(
        cls,
        record: Record,
        references: Mapping[str, Observation],
        observed: Mapping[str, Observation],
        beside: Mapping[str, Record],
    ) -> Others:
        """Find the case that a record's budget names.

        beside: records of the same run that are not judged now.
        """
        name = None if record.budget is UNSET else record.budget.of
        if name is None:
            return cls()
        old = references[name].record if name in references else None
        return cls(old, observed[name].record if name in observed else beside.get(name, old))


def budget_of(
    record: Record, devices: Iterable[DeviceClass] = (), other: Record | None = None
) -> tuple[BudgetUse, ...]:
    """Return how much a case uses of each part of its budget; empty without a budget.

    other: the case whose cost the shares refer to.
    """
    limits = record.budget
    if limits is UNSET:
        return ()
    return (*_uses(record, limits, devices), *_shares(record, limits, other))


def _shares(record: Record, limits: Limits, other: Record | None) -> Iterator[BudgetUse]:
    for name in SHARES:
        limit: float | None = getattr(limits, name)
        if limit is None:
            continue
        value, lacks = None, f"{limits.of} is neither in this run nor among its references"
        if other is not None:
            cost, whole = _cost(record, name), _cost(other, name)
            lacks = "not measured" if cost is None else f"not measured of {limits.of}"
            if cost is not None and whole is not None and whole >= 1:
                value = cost / whole
        yield BudgetUse(
            name=f"{name} {limits.of}", value=value, limit=limit, spec=_SHARE, lacks=lacks
        )


def _cost(record: Record, share: str) -> float | None:
    """Return the cost that a share is about."""
    if share == "update_of":
        return update_flops(record)
    return _value(record.metrics.get(_COSTS[share]))


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
                lacks = "no such device class" if found is None else "not measured"
                yield BudgetUse(name=name, value=need.value, limit=limit, spec=_BYTES, lacks=lacks)


def update_flops(record: Record) -> float | None:
    """Return the FLOPs of one update; None if a part of them was not measured."""
    values = [_value(record.metrics.get(name)) for name in UPDATE]
    return None if None in values else sum(value for value in values if value is not None)


def _value(metric: Metric | None) -> float | None:
    return None if metric is None else metric.value


def over_budget_reasons(
    old: Record | None, new: Record, devices: Sequence[DeviceClass], others: Others
) -> Iterator[Reason]:
    """Yield a reason for each part of a budget that is exceeded, with the reference's value."""
    before: dict[str, float | None] = {}
    if old is not None:
        under_new = msgspec.structs.replace(old, budget=new.budget)
        before = {use.name: use.value for use in budget_of(under_new, devices, others.old)}
    for use in budget_of(new, devices, others.new):
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
    old: Record | None, new: Record, devices: Sequence[DeviceClass], others: Others
) -> Iterator[Remark]:
    """Yield the parts of a budget that are not judged, or looser than in the reference."""
    limits = {use.part: use for use in budget_of(new, devices, others.new)}
    for use in limits.values():
        if not use.is_judged:
            yield Remark(kind="not judged", subject=f"budget {use.name}", text=use.lacks)
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


class Need(NamedTuple):
    """How much memory or storage a case needs."""

    name: str
    """`memory` or `storage`."""
    value: float | None
    """Bytes; None if it was not measured."""

    def limit_of(self, device: DeviceClass) -> int | None:
        """Return how many bytes a device has of it; None if that is not limited."""
        return device.memory_bytes if self.name == "memory" else device.storage_bytes

    def fits(self, device: DeviceClass) -> bool | None:
        """Return whether a device has enough of it; None if it was not measured."""
        limit = self.limit_of(device)
        if limit is None:
            return True
        return None if self.value is None else self.value <= limit


def needs_of(record: Record) -> tuple[Need, ...]:
    """Return the memory of one update, and the storage of all weights with the adapter."""
    metrics = record.metrics
    weights = [metrics.get(name) for name in ("peak_param_bytes", "peak_buffer_bytes")]
    measured = [metric.value for metric in weights if metric is not None]
    peak = metrics.get("peak_bytes")
    return (
        Need("memory", None if peak is None else peak.value),
        Need("storage", sum(measured) if len(measured) == len(weights) else None),
    )


def fits(record: Record, device: DeviceClass) -> bool | None:
    """Return whether a case fits into a device; None if that is not known."""
    found = [need.fits(device) for need in needs_of(record)]
    if False in found:
        return False
    return None if None in found else True


def lost_fits(old: Record, new: Record, devices: Iterable[DeviceClass]) -> Iterator[Reason]:
    """Yield a reason for each device that a case fitted into and no longer does."""
    needs = list(zip(needs_of(old), needs_of(new), strict=True))
    for device in devices:
        if not all(before.fits(device) for before, _ in needs):
            continue
        for before, after in needs:
            if after.fits(device) is False and before.value is not None is not after.value:
                yield Reason(
                    metric=f"fits {device.name}",
                    old=before.value,
                    new=after.value,
                    relative_change=(
                        (after.value - before.value) / before.value if before.value else None
                    ),
                    verdict="regressed",
                    spec=METRICS["peak_bytes"],
                    limit=after.limit_of(device),
                )
