"""Choose what of a run is exported."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import msgspec

from peft_regress.errors import AbsentError, InputError
from peft_regress.text import clean

if TYPE_CHECKING:
    from peft_regress.metrics import Metric
    from peft_regress.runs.schema import Record, Run

__all__ = ["add_once", "narrow", "seed_values", "without_metrics"]


def narrow(run: Run, *, cases: str = "*", metric: str = "*") -> Run:
    """Return the run with those cases and metrics alone that two globs select.

    A case that is in error or unsupported has no metrics and stays. Raises `InputError` where the
    run holds no case, `AbsentError` for a glob that fits none.
    """
    if not run.cases:
        msg = "the run holds no case, so there is nothing to export"
        raise InputError(msg)
    chosen = {name: record for name, record in run.cases.items() if fnmatchcase(name, cases)}
    if not chosen:
        some = ", ".join(clean(name) for name in list(run.cases)[:3])
        msg = f"--cases {cases!r} fits none of the {len(run.cases)} cases of the run, e.g. {some}"
        raise AbsentError(msg)
    found = {name: _narrow_record(record, metric) for name, record in chosen.items()}
    known = dict.fromkeys(name for record in chosen.values() for name in record.metrics)
    if known and not any(record.metrics for record in found.values()):
        names = clean(", ".join(known), longest=2000)
        msg = f"--metric {metric!r} fits none of the metrics of these cases: {names}"
        raise AbsentError(msg)
    return msgspec.structs.replace(run, cases=found)


def _narrow_record(record: Record, metric: str) -> Record:
    kept = {name: value for name, value in record.metrics.items() if fnmatchcase(name, metric)}
    return msgspec.structs.replace(record, metrics=kept)


def without_metrics(run: Run) -> list[str]:
    """Return the ids of the cases that a format of numbers alone has to leave out."""
    return [name for name, record in run.cases.items() if not record.metrics]


def seed_values(metric: Metric) -> list[float]:
    """Return one number a seed, those that `value` is the mean of; empty without samples."""
    heads = [s[0] if isinstance(s, list) and s else s for s in metric.samples or ()]
    return [head for head in heads if not isinstance(head, list)]


def add_once(table: dict[str, Any], name: str, value: Any, *, tool: str) -> None:
    """Add to a table of names; raises `InputError` where two would be one for the tool."""
    if name in table:
        msg = (
            f"{tool} would take two for one: {clean(name)!r}. Leave one out by --cases or --metric."
        )
        raise InputError(msg)
    table[name] = value
