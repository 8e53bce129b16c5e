"""How much of its budget a case uses, and on which devices it fits. Pure.

A budget judges the measured numbers alone: no reference excuses them. A share is of what the same
run measured of the other case, or else of the other case's reference. A built-in case for which
nothing states a budget has that of its reference: a budget travels with its baseline.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Self

import msgspec
from msgspec import UNSET

from peft_regress.gate.changes import is_absolute, relative
from peft_regress.gate.verdicts import BudgetUse, Observation, Reason, ReasonKind, Remark, Verdict
from peft_regress.metrics import BATCH_SUFFIX, METRICS, MetricSpec
from peft_regress.project.budgets import SHARES, Budget
from peft_regress.project.devices import DeviceClass, Runtime, room, runtime_of
from peft_regress.runs.schema import Record

UPDATE: Final = ("forward_flops", "backward_flops", "optimizer_flops")
"""The metrics that add up to the FLOPs of one update."""
_COSTS: Final = {
    "peak": ("peak_bytes",),
    "attainable": ("attainable_bytes",),
    "update": UPDATE,
    "ship": ("adapter_bytes",),
    "edge_train": ("edge_train_bytes",),
}
"""The metrics that add up to each part of a budget, except for its score."""
_SHARED: Final = {**_COSTS, "peak_b32": (f"peak_bytes{BATCH_SUFFIX}",)}
"""Those that shares are of."""
_BYTES: Final = METRICS["peak_bytes"]
_SHARE: Final = MetricSpec(unit="fraction", direction="lower", kind="score")


class Others(NamedTuple):
    """The case that a budget's shares refer to, as each side has it; None if it has none."""

    old: Record | None = None
    new: Record | None = None

    @classmethod
    def of(
        cls,
        new: Observation | None,
        references: Mapping[str, Observation],
        observed: Mapping[str, Observation],
        beside: Mapping[str, Record],
    ) -> Self:
        """Find the case that a budget names. beside: records of the run or storage, not judged."""
        budget = UNSET if new is None else new.record.budget
        name = None if budget is UNSET else budget.of
        if name is None:
            return cls()
        old = references[name].record if name in references else beside.get(name)
        return cls(old, observed[name].record if name in observed else beside.get(name, old))


def with_budget_of(new: Observation, old: Observation | None) -> Observation:
    """Return a built-in case with the budget of its reference, if it has none itself."""
    if old is None or new.record.is_own or new.record.budget is not UNSET:
        return new
    return replace(new, record=msgspec.structs.replace(new.record, budget=old.record.budget))


def budget_of(
    record: Record, devices: Iterable[DeviceClass] = (), other: Record | None = None
) -> tuple[BudgetUse, ...]:
    """Return how much a case uses of each part of its budget. other: what the shares are of."""
    limits = record.budget
    if limits is UNSET:
        return ()
    return (*_uses(record, limits, devices), *_shares(record, limits, other))


def _uses(record: Record, limits: Budget, devices: Iterable[DeviceClass]) -> Iterator[BudgetUse]:
    score = record.metrics.get("score") or record.metrics.get("accuracy")
    measured: dict[str, tuple[float | None, MetricSpec]] = {
        name: (record.value_of(*metrics), METRICS[metrics[0]]) for name, metrics in _COSTS.items()
    }
    measured["score"] = (None, METRICS["score"]) if score is None else (score.value, score.spec)
    for name, (value, spec) in measured.items():
        limit = limits.limit(name)
        if limit is not None:
            yield BudgetUse(name=name, value=value, limit=limit, spec=spec)
    if limits.device is not None:
        found = next((one for one in devices if one.name == limits.device), None)
        for need, value in needs_of(record).items():
            limit = None if found is None else _limit(record, found, need)
            if found is None or limit is not None:
                name = f"{need} of {limits.device}"
                if need == "memory" and record.cost_batch is not None:
                    # Of a built-in case it is not the user's.
                    name += f" at batch {record.cost_batch}"
                    name += " of 224x224" if record.batch is UNSET else ""
                lacks = "no such device class" if found is None else "not measured"
                yield BudgetUse(name=name, value=value, limit=limit, spec=_BYTES, lacks=lacks)


def _shares(record: Record, limits: Budget, other: Record | None) -> Iterator[BudgetUse]:
    for part in SHARES:
        limit = limits.limit(part)
        if limit is None:
            continue
        value, lacks = None, f"{limits.of} is neither in this run nor among its references"
        if other is not None:
            cost, whole = (
                one.value_of(*_SHARED[part.removesuffix("_of")]) for one in (record, other)
            )
            lacks = "not measured" if cost is None else f"not measured of {limits.of}"
            if cost is not None and whole is not None and whole >= 1:
                value = cost / whole
        name = f"{part} {limits.of}"
        yield BudgetUse(name=name, value=value, limit=limit, spec=_SHARE, lacks=lacks)


def budget_findings(
    uses: Sequence[BudgetUse],
    old: Record | None,
    new: Record,
    devices: Sequence[DeviceClass],
    others: Others,
) -> Iterator[Reason | Remark]:
    """Yield the parts of a budget that are exceeded, not judged, or looser than the reference's."""
    before: dict[str, float | None] = {}
    if old is not None:
        under_new = msgspec.structs.replace(old, budget=new.budget)
        before = {use.name: use.value for use in budget_of(under_new, devices, others.old)}
    for use in uses:
        if use.is_over:
            yield _over("budget", "over_budget", use, before.get(use.name))
    limits = {use.part: use for use in uses}
    for use in limits.values():
        if use.over_by is None:
            yield Remark(kind="not judged", subject=f"budget {use.name}", text=use.lacks)
    for use in () if old is None else budget_of(old, devices):
        now = limits[use.part].limit if use.part in limits else None
        was = use.limit
        if was is not None and (now is None or (now < was if use.is_least else now > was)):
            name, spec = f"budget {use.name}", use.spec
            yield Remark(kind="looser budget", subject=name, old=was, new=now, spec=spec)


def _over(kind: ReasonKind, verdict: Verdict, use: BudgetUse, was: float | None) -> Reason:
    """Return that a value is beyond its limit; of a fraction or a score the change is absolute."""
    change = None
    if was is not None and use.value is not None:
        change = use.value - was
        change = change if is_absolute(use.spec) else relative(change, abs(was))
    return Reason(
        kind=kind,
        subject=use.name,
        old=was,
        new=use.value,
        relative_change=change,
        verdict=verdict,
        spec=use.spec,
        limit=use.limit,
    )


def needs_of(record: Record, suffix: str = "") -> dict[str, float | None]:
    """Return the `memory` of one update's tensors, and the `storage` of weights or the program.

    Bytes; None if it was not measured. suffix: of the batch, as in the names of metrics.
    """
    memory, stored = "peak_bytes", ["peak_param_bytes", "peak_buffer_bytes"]
    if step_runtime(record) == "executorch":
        memory, stored = "edge_train_bytes", ["edge_train_program_bytes"]
    return {"memory": record.value_of(memory + suffix), "storage": record.value_of(*stored)}


def step_runtime(record: Record) -> Runtime:
    """Return what takes the step of a case: of one's own by what trains, whatever it is named."""
    if "edge_train_bytes" in record.metrics:
        return "executorch"
    if record.batch is UNSET and record.script is UNSET:
        return runtime_of(record.case.method)
    if "projection_flops" in record.metrics:
        return "galore"
    trains_all = record.value_of("trainable_params") == record.value_of("total_params")
    return "eager" if trains_all or record.numerics in {"head", "bn_head"} else "peft"


def _limit(record: Record, device: DeviceClass, need: str) -> int | None:
    """Return how many bytes a device has for a case; None if that is not limited."""
    return room(device, step_runtime(record)) if need == "memory" else device.storage_bytes


def fits(record: Record, device: DeviceClass) -> bool | None:
    """Return whether a case fits into a device; None if that is not known."""
    found = {_fits(value, _limit(record, device, need)) for need, value in needs_of(record).items()}
    return False if False in found else None if None in found else True


def _fits(value: float | None, limit: int | None) -> bool | None:
    if limit is None:
        return True
    return None if value is None else value <= limit


def lost_fits(old: Record, new: Record, devices: Iterable[DeviceClass]) -> Iterator[Reason]:
    """Yield a reason for each device that a case fitted into and no longer does."""
    before, after = needs_of(old), needs_of(new)
    for device in devices:
        for need in before if fits(old, device) else ():
            was, now, limit = before[need], after[need], _limit(new, device, need)
            if _fits(now, limit) is False and was is not None is not now:
                use = BudgetUse(name=device.name, value=now, limit=limit, spec=_BYTES)
                yield _over("fits", "regressed", use, was)
