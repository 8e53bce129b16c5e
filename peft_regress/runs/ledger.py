"""Split the costs of a training step by module, in a ledger small enough for a run file.

Every metric that counts FLOPs or bytes has rows, (module, what) -> number, that add up to it. Most
numbers can be derived from others. The ledger keeps only those that differ from the derived ones:
`pack` leaves the rest out, `rows_of` restores them exactly. The rules:

- at the simultaneous peak a module has, of each category, what it has at that category's high;
- after the step it keeps the optimizer state that it has at the optimizer's high;
- it ships as many bytes as it has gradients, since what trains is shipped;
- the paper's counter gives the same as the correct one;
- at batch 32, forward and backward FLOPs, activations and temporaries are 32 times those at
  batch 1; everything else is equal;
- an update in ExecuTorch needs its plan, and the optimizer's state.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import UNSET

from peft_regress.errors import InputError
from peft_regress.metrics import BATCH_SUFFIX, METRICS
from peft_regress.runs.schema import BatchCosts, Ledger, ModuleCosts, Record

_Kept = Callable[[str], dict[str, int]]
"""The numbers that a ledger keeps for one module, by the name of a metric."""

Rows = dict[tuple[str, str], int]
"""(module, what) -> FLOPs or bytes.

"What" is an operator, or a category of memory with the operator that allocated it in the step, if
one did: 'activation aten.convolution'.
"""

_BATCH: Final = 32

MATRIX_WORK: Final = frozenset(
    {"forward_flops", "backward_flops", "paper_forward_flops", "paper_backward_flops"}
)
"""The metrics that grow with the batch."""
_GROWING_CATEGORIES = frozenset({"activation", "temp"})

_HIGHS = {
    f"peak_{category}_bytes": category
    for category in ("param", "buffer", "grad", "activation", "temp", "optimizer")
}
"""Metrics whose numbers are in `high_bytes`, and the category that begins their rows."""

_SINGLE = {"optimizer_flops": "step", "optimizer_state_bytes": "optimizer", "adapter_bytes": "ship"}
"""Metrics with one number per module, and its name in a row."""

_TOTAL_OF = {"optimizer_state_bytes": "peak_optimizer_bytes", "adapter_bytes": "peak_grad_bytes"}
"""Metrics with one number per module that is derived as the total of another metric."""

_INDEPENDENT = ("forward_flops", "backward_flops", "optimizer_flops", "projection_flops", *_HIGHS)
_DERIVED = ("peak_bytes", "paper_forward_flops", "paper_backward_flops", *_TOTAL_OF)
_ALL = (*_INDEPENDENT, *_DERIVED)
"""In this order, since numbers are derived from those before them."""

LEDGER_METRICS: Final = frozenset(
    name + suffix
    for name in (*_ALL, "category_sum_bytes")
    for suffix in ("", BATCH_SUFFIX)
    if name + suffix in METRICS
)
"""The metrics of a step that a ledger explains: all that count its FLOPs or bytes."""

_PLANNED: Final = frozenset(name for name in METRICS if name.endswith("_planned_bytes"))
_UPDATE: Final = "edge_train_bytes"
"""The plan of training and what the optimizer keeps beside it."""
PLAN_METRICS: Final = _PLANNED | {_UPDATE}
"""The metrics of programs that a ledger explains: all that count bytes of a plan."""


def pack(rows: Mapping[str, Rows], *, peak_phase: Mapping[str, str]) -> Ledger:
    """Return the ledger of a step from all rows of its metrics, at batch 1 and at batch 32.

    The rows of `optimizer_flops` are by operator, like those of the other phases.
    """
    by_module: dict[str, dict[str, dict[str, int]]] = {}
    for metric, numbers in rows.items():
        single = _SINGLE.get(metric.removesuffix(BATCH_SUFFIX))
        for (module, what), number in numbers.items():
            found = by_module.setdefault(module, {}).setdefault(metric, Counter())
            found[single or what] += number
    operators, operators_b32 = Counter[str](), Counter[str]()
    for totals, suffix in ((operators, ""), (operators_b32, BATCH_SUFFIX)):
        for (_, operator), number in rows.get("optimizer_flops" + suffix, {}).items():
            totals[operator] += number
    return Ledger(
        modules={name: _pack_module(by_module[name]) for name in sorted(by_module)},
        optimizer_flops=_differing(operators, {}),
        optimizer_flops_b32=_differing(operators_b32, operators),
        peak_phase=dict(peak_phase),
    )


def rows_of(ledger: Ledger, metric: str) -> Rows | None:
    """Return the rows of a metric without zeros, or None if the ledger does not have them.

    Those of `optimizer_flops` are by module only; `operator_rows_of` has them by operator.
    """
    if metric in _PLANNED:
        modules = ledger.planned.get(metric)
        if modules is None:
            return None
        return {(module, what): n for module, rows in modules.items() for what, n in rows.items()}
    if metric == _UPDATE:
        plan = rows_of(ledger, "edge_train_planned_bytes")
        state = rows_of(ledger, "optimizer_state_bytes") or {}
        return None if plan is None else {**plan, **state}
    if metric not in LEDGER_METRICS or not ledger.modules:
        return None
    if metric.startswith("category_sum_bytes"):
        suffix = metric.removeprefix("category_sum_bytes")
        parts = [rows_of(ledger, high + suffix) or {} for high in _HIGHS]
        return {key: number for part in parts for key, number in part.items()}
    name = metric.removesuffix(BATCH_SUFFIX)
    suffix = metric.removeprefix(name)
    return {
        (module, what): number
        for module, costs in ledger.modules.items()
        for what, number in _numbers(partial(_kept_by, costs), name, suffix).items()
        if number
    }


def with_plans(ledger: Ledger, plans: Mapping[str, Rows]) -> Ledger:
    """Return a ledger that also explains plans of memory, by the name of their metric."""
    planned: dict[str, dict[str, dict[str, int]]] = {metric: {} for metric in sorted(plans)}
    for metric, modules in planned.items():
        for (module, what), size in sorted(plans[metric].items()):
            modules.setdefault(module, {})[what] = size
    return msgspec.structs.replace(ledger, planned=planned)


def operator_rows_of(ledger: Ledger, metric: str) -> Rows | None:
    """Return `optimizer_flops` by operator, over all modules; None for another metric."""
    if metric.removesuffix(BATCH_SUFFIX) != "optimizer_flops" or not ledger.modules:
        return None
    numbers = ledger.optimizer_flops
    if metric.endswith(BATCH_SUFFIX):
        numbers = {**numbers, **ledger.optimizer_flops_b32}
    return {("", operator): number for operator, number in numbers.items() if number}


def check_sums(records: Iterable[Record], where: str) -> None:
    """Raise `InputError` if the rows of a metric in a record's ledger do not add up to it."""
    totals: dict[tuple[int, str], list[int]] = {}
    for record in records:
        ledger = record.whole_ledger
        for name, metric in record.metrics.items():
            key = id(ledger), name  # most records of a run share a few ledgers
            if key not in totals:
                views = (rows_of(ledger, name), operator_rows_of(ledger, name))
                totals[key] = [sum(rows.values()) for rows in views if rows is not None]
            for total in totals[key]:
                if total != metric.value:
                    raise InputError(
                        f"{where}: {record.case.id}: metric {name!r} is {metric.value:,}, but its "
                        f"ledger adds up to {total:,}. Make the run again."
                    )


def _pack_module(full: Mapping[str, Mapping[str, int]]) -> ModuleCosts:
    """Pack the numbers of one module: metric -> what -> number."""
    kept: dict[str, dict[str, int]] = {}
    for suffix in ("", BATCH_SUFFIX):
        for metric in _ALL:
            if metric + suffix in LEDGER_METRICS:
                derived = _numbers(lambda name: kept.get(name, {}), metric, suffix)
                kept[metric + suffix] = _differing(full.get(metric + suffix, {}), derived)
    at_32 = BatchCosts(**_fields(kept, BATCH_SUFFIX))
    return ModuleCosts(**_fields(kept, ""), b32=UNSET if at_32 == BatchCosts() else at_32)


def _fields(kept: Mapping[str, dict[str, int]], suffix: str) -> dict[str, Any]:
    """Return the numbers kept for a module at one batch size as the fields of its struct."""
    fields: dict[str, Any] = {"high_bytes": {}}
    for metric in _ALL:
        numbers = kept.get(metric + suffix, {})
        if metric in _HIGHS:
            fields["high_bytes"] |= numbers
        elif metric not in _SINGLE:
            fields[metric] = numbers
        elif numbers:
            (fields[metric],) = numbers.values()
    return fields


def _kept_by(costs: ModuleCosts, name: str) -> dict[str, int]:
    """Return the numbers of a metric that a module's struct keeps."""
    metric = name.removesuffix(BATCH_SUFFIX)
    of_batch = costs if name == metric else costs.b32
    if of_batch is UNSET:
        return {}
    if metric in _HIGHS:
        highs = of_batch.high_bytes.items()
        return {what: high for what, high in highs if _category_of(what) == _HIGHS[metric]}
    value: Any = getattr(of_batch, metric)
    if metric in _SINGLE:
        return {} if value is UNSET else {_SINGLE[metric]: value}
    numbers: dict[str, int] = value
    return numbers


def _numbers(kept: _Kept, metric: str, suffix: str) -> dict[str, int]:
    """Return what a module adds to a metric, by operator or category."""
    numbers = _derived(kept, metric, suffix) | kept(metric)
    if not suffix:
        return numbers
    for what, number in kept(metric).items():
        if metric in MATRIX_WORK or _category_of(what) in _GROWING_CATEGORIES:
            numbers[what] = number * _BATCH
    return numbers | kept(metric + suffix)


def _derived(kept: _Kept, metric: str, suffix: str) -> dict[str, int]:
    """Return the numbers of a metric as they follow from those of other metrics."""
    if metric == "peak_bytes":
        found: dict[str, int] = {}
        for high in _HIGHS:
            found |= _numbers(kept, high, suffix)
        return found
    if metric.startswith("paper_"):
        return _numbers(kept, metric.removeprefix("paper_"), suffix)
    if metric in _TOTAL_OF:
        return {_SINGLE[metric]: sum(_numbers(kept, _TOTAL_OF[metric], suffix).values())}
    return {}


def _differing(numbers: Mapping[str, int], derived: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers that differ from the derived ones; 0 for a number that is not there."""
    return {
        what: numbers.get(what, 0)
        for what in sorted(numbers.keys() | derived.keys())
        if numbers.get(what, 0) != derived.get(what, 0)
    }


def _category_of(what: str) -> str:
    """Return the category in the name of a memory row, without the operator."""
    return what.partition(" ")[0]
