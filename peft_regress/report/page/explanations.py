"""Which modules the present numbers of a case come from, and which modules changed them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from peft_regress.gate.attribution import explain_metric
from peft_regress.report.page.whole_runs import WholeRuns
from peft_regress.runs.ledger import rows_of
from peft_regress.runs.schema import Record

_PRESENT_METRICS: Final = (
    "forward_flops",
    "backward_flops",
    "optimizer_flops",
    "projection_flops",
    "peak_bytes",
    "peak_bytes_b32",
    "adapter_bytes",
    "edge_train_planned_bytes",
)
TRANSITION_METRICS: Final = (
    *_PRESENT_METRICS,
    "peak_activation_bytes",
    "peak_temp_bytes",
    "peak_grad_bytes",
    "peak_optimizer_bytes",
    "optimizer_state_bytes",
    "peak_activation_bytes_b32",
    "peak_temp_bytes_b32",
    "edge_inference_planned_bytes",
)
"""Metrics whose changes are explained; the others follow from these, or have no rows."""

_MOST_ROWS: Final = 10
_MOST_CHANGED_ROWS: Final = 5
_MOST_CHANGES: Final = 24
"""Changes that are explained for each case."""
_MOST_WHOLE_RUNS: Final = 8
"""Entries whose ledgers are read: first those of present numbers, then the newest changes."""


_Known = dict[tuple[int, str], list[tuple[tuple[str, str], int]]]
"""Sorted rows by the identity of a ledger, which cases of several tasks share, and the metric."""


class Change(NamedTuple):
    """A metric of a case that changed between two entries, named by their indices."""

    case: str
    metric: str
    old: int
    new: int


def explain_cases(
    cases: Mapping[str, dict[str, Any]],
    changes: Iterable[Change],
    *,
    indices: Mapping[str, int],
    runs: WholeRuns,
) -> None:
    """Add to each case the modules behind its present numbers and behind its changes.

    `changes` are the newest first; `indices` are the positions of the metrics on the page.
    `runs` are asked for the first few entries only.
    """
    read: set[int] = set()
    known: _Known = {}

    def record_of(index: int, name: str) -> Record | None:
        if index not in read and len(read) == _MOST_WHOLE_RUNS:
            return None
        read.add(index)
        return runs.read(index).cases[name]

    for name, case in cases.items():
        present = record_of(case["current"], name)
        if present is not None:
            case["attribution"] = _present(present, indices, known)
    for name, metric, before, after in changes:
        explained = cases[name]["transitions"]
        if len(explained) == _MOST_CHANGES:
            continue
        old, new = record_of(before, name), record_of(after, name)
        if old is not None and new is not None:
            sides = {"metric": indices[metric], "from": before, "to": after}
            explained.append({**sides, **_changed(metric, old, new)})


def _present(record: Record, indices: Mapping[str, int], known: _Known) -> list[dict[str, Any]]:
    """Return the largest rows of each metric; `rows` and `rest` add up to the metric."""
    found = []
    for name in _PRESENT_METRICS:
        if name not in indices or name not in record.metrics:
            continue
        ledger = record.whole_ledger
        if (id(ledger), name) not in known:
            rows = rows_of(ledger, name) or {}
            known[id(ledger), name] = sorted(rows.items(), key=lambda row: (-row[1], row[0]))
        ordered = known[id(ledger), name]
        if not ordered:
            continue
        shown = ordered[:_MOST_ROWS]
        total = record.metrics[name].value
        found.append(
            {
                "metric": indices[name],
                "rows": [[module, what, number] for (module, what), number in shown],
                "rest": total - sum(number for _, number in shown),
                "rest_rows": len(ordered) - len(shown),
            }
        )
    return found


def _changed(name: str, old: Record, new: Record) -> dict[str, Any]:
    """Return the old and the new value, and the largest rows of the change."""
    change = explain_metric(name, old, new)
    rows = change.shortest
    return {
        "old": change.old,
        "new": change.new,
        "rows": [[row.module, row.what, row.old, row.new] for row in rows[:_MOST_CHANGED_ROWS]],
        "rest_rows": max(len(rows) - _MOST_CHANGED_ROWS, 0),
    }
