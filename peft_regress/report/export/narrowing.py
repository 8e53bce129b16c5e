"""Choose the cases and metrics to export."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import msgspec

from peft_regress.errors import AbsentError, InputError
from peft_regress.text import clean, count_of

if TYPE_CHECKING:
    from peft_regress.metrics import Metric
    from peft_regress.runs.schema import Record, Run


def narrow(run: Run, *, cases: str = "*", metric: str = "*") -> Run:
    """Return the run with only the cases and metrics that match two globs.

    A case in error or unsupported has no metrics, and stays. Raises `InputError` if the run has no
    case, `AbsentError` for a glob that matches nothing.
    """
    if not run.cases:
        msg = "the run has no case, so there is nothing to export"
        raise InputError(msg)
    chosen = {name: record for name, record in run.cases.items() if fnmatchcase(name, cases)}
    if not chosen:
        some = ", ".join(clean(name) for name in list(run.cases)[:3])
        counted = count_of(len(run.cases), "case")
        msg = f"--cases {cases!r} matches none of the {counted} of the run, e.g. {some}"
        raise AbsentError(msg)
    found = {name: _narrow_record(record, metric) for name, record in chosen.items()}
    known = dict.fromkeys(name for record in chosen.values() for name in record.metrics)
    if known and not any(record.metrics for record in found.values()):
        names = clean(", ".join(known), longest=2000)
        msg = f"--metric {metric!r} matches none of the metrics of these cases: {names}"
        raise AbsentError(msg)
    return msgspec.structs.replace(run, cases=found)


def _narrow_record(record: Record, metric: str) -> Record:
    kept = {name: value for name, value in record.metrics.items() if fnmatchcase(name, metric)}
    return msgspec.structs.replace(record, metrics=kept)


def seed_values(metric: Metric) -> list[float]:
    """Return one number for each seed, whose mean `value` is; empty without samples."""
    heads = [s[0] if isinstance(s, list) and s else s for s in metric.samples or ()]
    return [head for head in heads if not isinstance(head, list)]


def add_once(table: dict[str, Any], name: str, value: Any, *, tool: str) -> None:
    """Add a name to a table. Raises `InputError` if the tool would mistake it for another."""
    if name in table:
        msg = (
            f"{tool} cannot tell two names apart: {clean(name)!r}. Leave one out by --cases or "
            "--metric."
        )
        raise InputError(msg)
    table[name] = value
