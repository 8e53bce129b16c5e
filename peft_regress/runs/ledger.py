"""Keep where the costs of a training step come from, in a ledger small enough for a run file.

Every metric that counts FLOPs or bytes has rows, (module, what) -> number, that add up to it. Most
of them follow from others, and a file holds only those that do not: `pack` leaves the rest out,
`rows_of` puts it back, to the last digit. What follows, where the ledger says nothing else:

- at the simultaneous peak a module holds, of each category, what it holds at the category's high;
- after the step it keeps the optimizer state that it holds at the optimizer's high;
- it ships as many bytes as it has gradients, since what trains is what ships;
- the paper's counter counts what the right one counts;
- at batch 32, forward and backward FLOPs, activations and temporaries are 32 times those at
  batch 1, and everything else is as at batch 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from msgspec import UNSET

from peft_regress.metrics import BATCH_SUFFIX, METRICS
from peft_regress.runs.schema import BatchCosts, Ledger, ModuleCosts

__all__ = [
    "LEDGER_METRICS",
    "Rows",
    "category_of",
    "is_of_before",
    "operator_rows_of",
    "pack",
    "rows_of",
]

Said = Callable[[str], Mapping[str, int]]
"""What a ledger says of a metric of one module, by the metric's name."""

Rows = dict[tuple[str, str], int]
"""(module, what) -> FLOPs or bytes.

What is an operator; or a category of memory and, where it was allocated in the step, the operator
that did: 'activation aten.convolution'.
"""

_BATCH: Final = 32

_GROWING_METRICS = frozenset(
    {"forward_flops", "backward_flops", "paper_forward_flops", "paper_backward_flops"}
)
_GROWING_CATEGORIES = frozenset({"activation", "temp"})

_HIGHS = {
    f"peak_{category}_bytes": category
    for category in ("param", "buffer", "grad", "activation", "temp", "optimizer")
}
"""Metrics that are kept in `high_bytes`, and the category that their rows begin with."""

_SINGLE = {"optimizer_flops": "step", "optimizer_state_bytes": "optimizer", "adapter_bytes": "ship"}
"""Metrics with one number a module, and what it is called in a row."""

_FOLLOWS = {
    "optimizer_state_bytes": "peak_optimizer_bytes",
    "adapter_bytes": "peak_grad_bytes",
}

_SAID_FIRST = ("forward_flops", "backward_flops", "optimizer_flops", "projection_flops", *_HIGHS)
_FOLLOWING = ("peak_bytes", "paper_forward_flops", "paper_backward_flops", *_FOLLOWS)

LEDGER_METRICS: Final = frozenset(
    name + suffix
    for name in (*_SAID_FIRST, *_FOLLOWING, "category_sum_bytes")
    for suffix in ("", BATCH_SUFFIX)
    if name + suffix in METRICS
)
"""The metrics that a ledger explains: all that count FLOPs or bytes."""


def pack(rows: Mapping[str, Rows], *, peak_phase: Mapping[str, str]) -> Ledger:
    """Return the ledger of a step from the full rows of its metrics, at batch 1 and at batch 32.

    The rows of `optimizer_flops` are by operator, like those of the other phases.
    """
    by_module: dict[str, dict[str, dict[str, int]]] = {}
    for metric, numbers in rows.items():
        single = _SINGLE.get(metric.removesuffix(BATCH_SUFFIX))
        for (module, what), number in numbers.items():
            found = by_module.setdefault(module, {}).setdefault(metric, Counter())
            found[single or what] += number
    operators = {
        suffix: _by_operator(rows.get("optimizer_flops" + suffix, {}))
        for suffix in ("", BATCH_SUFFIX)
    }
    return Ledger(
        modules={name: _pack_module(by_module[name]) for name in sorted(by_module)},
        optimizer_flops=_differing(operators[""], {}),
        optimizer_flops_b32=_differing(operators[BATCH_SUFFIX], operators[""]),
        peak_phase=dict(peak_phase),
    )


def rows_of(ledger: Ledger, metric: str) -> Rows | None:
    """Return the rows of a metric, none of them 0; None where the ledger does not hold them.

    Those of `optimizer_flops` are by module alone; `operator_rows_of` has them by operator.
    """
    if is_of_before(ledger):
        return None if metric == "optimizer_flops" else _earlier_rows(ledger, metric)
    if metric not in LEDGER_METRICS or not ledger.modules:
        return None
    if metric.startswith("category_sum_bytes"):
        suffix = metric.removeprefix("category_sum_bytes")
        parts = [rows_of(ledger, high + suffix) or {} for high in _HIGHS]
        return {key: number for part in parts for key, number in part.items()}
    name = metric.removesuffix(BATCH_SUFFIX)
    return {
        (module, what): number
        for module, costs in ledger.modules.items()
        for what, number in _numbers(partial(_said, costs), name, metric.removeprefix(name)).items()
        if number
    }


def operator_rows_of(ledger: Ledger, metric: str) -> Rows | None:
    """Return `optimizer_flops` by operator, over all modules; None for another metric."""
    if metric.removesuffix(BATCH_SUFFIX) != "optimizer_flops":
        return None
    if is_of_before(ledger):
        return _earlier_rows(ledger, metric)
    if not ledger.modules:
        return None
    numbers = ledger.optimizer_flops
    if metric.endswith(BATCH_SUFFIX):
        numbers = {**numbers, **ledger.optimizer_flops_b32}
    return {("", operator): number for operator, number in numbers.items() if number}


def is_of_before(ledger: Ledger) -> bool:
    """Return whether a ledger has the form of earlier files, which explains less."""
    return ledger.flops is not UNSET or ledger.bytes is not UNSET


def _pack_module(full: Mapping[str, Mapping[str, int]]) -> ModuleCosts:
    """Return what one module's numbers (metric -> what -> number) are packed to."""
    said: dict[str, dict[str, int]] = {}
    for suffix in ("", BATCH_SUFFIX):
        # In this order, since numbers follow from those that come before.
        for metric in (*_SAID_FIRST, *_FOLLOWING):
            if metric + suffix in LEDGER_METRICS:
                following = _numbers(lambda name: said.get(name, {}), metric, suffix)
                said[metric + suffix] = _differing(full.get(metric + suffix, {}), following)
    at_32 = BatchCosts(**_fields(said, BATCH_SUFFIX))
    return ModuleCosts(**_fields(said, ""), b32=UNSET if at_32 == BatchCosts() else at_32)


def _fields(said: Mapping[str, dict[str, int]], suffix: str) -> dict[str, Any]:
    """Return what is said of a module at one batch size as the fields of its struct."""
    fields: dict[str, Any] = {"high_bytes": {}}
    for metric in (*_SAID_FIRST, *_FOLLOWING):
        numbers = said.get(metric + suffix, {})
        if metric in _HIGHS:
            fields["high_bytes"] |= numbers
        elif metric not in _SINGLE:
            fields[metric] = numbers
        elif numbers:
            (fields[metric],) = numbers.values()
    return fields


def _said(costs: ModuleCosts, name: str) -> Mapping[str, int]:
    """Return what a module's struct says of a metric."""
    metric = name.removesuffix(BATCH_SUFFIX)
    of_batch = costs if name == metric else costs.b32
    if of_batch is UNSET:
        return {}
    if metric in _HIGHS:
        highs = of_batch.high_bytes.items()
        return {what: high for what, high in highs if category_of(what) == _HIGHS[metric]}
    value: Any = getattr(of_batch, metric)
    if metric in _SINGLE:
        return {} if value is UNSET else {_SINGLE[metric]: value}
    numbers: Mapping[str, int] = value
    return numbers


def _numbers(said: Said, metric: str, suffix: str) -> dict[str, int]:
    """Return what a module adds to a metric, by operator or category."""
    numbers = _following(said, metric, suffix)
    for what, number in said(metric).items():
        grows = suffix and (metric in _GROWING_METRICS or category_of(what) in _GROWING_CATEGORIES)
        numbers[what] = number * _BATCH if grows else number
    return {**numbers, **said(metric + suffix)} if suffix else numbers


def _following(said: Said, metric: str, suffix: str) -> dict[str, int]:
    """Return the numbers that a metric's follow where nothing is said of them."""
    if metric == "peak_bytes":
        return {k: n for high in _HIGHS for k, n in _numbers(said, high, suffix).items()}
    if metric.startswith("paper_"):
        return _numbers(said, metric.removeprefix("paper_"), suffix)
    if metric in _FOLLOWS:
        return {_SINGLE[metric]: sum(_numbers(said, _FOLLOWS[metric], suffix).values())}
    return {}


def _differing(numbers: Mapping[str, int], following: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers that are not what follows; a 0 where something follows and nothing is."""
    return {
        what: numbers.get(what, 0)
        for what in sorted(numbers.keys() | following.keys())
        if numbers.get(what, 0) != following.get(what, 0)
    }


def category_of(what: str) -> str:
    """Return the category of memory that a row is named by, its operator left out."""
    return what.partition(" ")[0]


def _by_operator(rows: Rows) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for (_, operator), number in rows.items():
        totals[operator] += number
    return totals


def _earlier_rows(ledger: Ledger, metric: str) -> Rows | None:
    """Return rows from the form that held batch 1, and bytes of the simultaneous peak, alone."""
    if metric == "peak_bytes" and ledger.bytes is not UNSET:
        return {
            (module, category): number
            for category, modules in ledger.bytes.items()
            for module, number in modules.items()
            if number
        }
    phase = metric.removesuffix("_flops")
    if phase in {"forward", "backward", "optimizer", "projection"} and ledger.flops is not UNSET:
        return {
            (module, operator): number
            for module, operators in ledger.flops.get(phase, {}).items()
            for operator, number in operators.items()
            if number
        }
    return None
