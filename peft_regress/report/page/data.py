"""The data of the page as one JSON value; numbers are unscaled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import msgspec
from msgspec import UNSET

from peft_regress.baselines.history import (
    by_release,
    newest_index,
    present_entries,
    present_record,
    records_by_case,
)
from peft_regress.baselines.lines import Entry
from peft_regress.budgets import UNITS
from peft_regress.devices import DeviceClass, load_devices
from peft_regress.gate.budgets import budget_of
from peft_regress.gate.changes import value_of
from peft_regress.gate.comparison import Comparison
from peft_regress.gate.policy import Bounds
from peft_regress.gate.verdicts import BudgetUse
from peft_regress.metrics import INVARIANTS, METRICS, Metric
from peft_regress.report.page.case_lines import (
    CaseLines,
    Records,
    clip,
    lines_of_case,
    status_of_case,
)
from peft_regress.report.page.comparisons import encode_comparisons, verdicts_by_case
from peft_regress.report.page.entries import encode_entry, environments_of
from peft_regress.report.page.explanations import TRANSITION_METRICS, Change, explain_cases
from peft_regress.report.page.whole_runs import WholeRun, WholeRuns
from peft_regress.report.verdict.to_json import encode_budget
from peft_regress.runs.environment import SUSPECTS
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION, Record

_MOST_VALUES: Final = 170_000
_MOST_MARKS: Final = 40_000
"""Values and marks of all lines together: a page of a few megabytes."""
_FEWEST_VALUES: Final = 16
_FEWEST_MARKS: Final = 2


def page_data(
    entries: Sequence[Entry],
    whole_run: WholeRun,
    *,
    devices: Sequence[DeviceClass] | None = None,
    newest: Comparison | None = None,
) -> dict[str, Any]:
    """Return the page's data: entries, metrics, each case with its lines, and comparisons.

    `entries` are in the order of `read_entries`. `whole_run` returns an entry's run with its
    ledgers; it is called once for each of a few entries. `devices` are those that a case may fit
    into, by default those of the package. `newest` is the comparison of the last entry that
    holds a case with what judges it.
    """
    devices = load_devices() if devices is None else devices
    runs = WholeRuns(entries, whole_run)
    cases, present = records_by_case(entries), present_entries(entries)
    now = {name: present_record(entries, name, at) for name, at in present.items()}
    orders = _orders(entries)
    names, invariants = _metric_names(cases), _invariant_names(cases)
    lines = {
        name: lines_of_case(records, entries, names=names, orders=orders)
        for name, records in cases.items()
    }
    marks = _share(
        (len(changes) for case in lines.values() for changes in case.all_transitions()),
        room=_MOST_MARKS,
        fewest=_FEWEST_MARKS,
    )
    lines = {name: case.with_newest_transitions(marks) for name, case in lines.items()}
    most = _share(
        (len(held.at) for case in lines.values() for held in case.held.values()),
        room=_MOST_VALUES,
        fewest=_FEWEST_VALUES,
    )
    lines = {
        name: case.thinned(most, orders, present=present[name]) for name, case in lines.items()
    }
    indices = {name: index for index, name in enumerate(names)}
    encoded = {
        name: {
            "id": name,
            **msgspec.to_builtins(records[present[name]].case),
            "current": present[name],
            "status": status_of_case(
                records, present=present[name], last=len(entries) - 1
            )._asdict(),
            **_encode_facts(now[name], invariants),
            **_encode_lines(lines[name], now[name], indices=indices),
            "budgets": [
                {**encode_budget(use), "unit": use.spec.unit}
                for use in _budgets(now[name], cases, present, devices)
            ],
            "attribution": [],
            "transitions": [],
        }
        for name, records in cases.items()
    }
    changes = _newest_changes(lines, *next(iter(orders.items())))
    explain_cases(encoded, changes, indices=indices, runs=runs)
    for name, verdict in verdicts_by_case(newest).items():
        # A case that the newest entry does not show has an older state, or was retired since.
        if present.get(name) == newest_index(entries):
            encoded[name]["verdict"] = verdict
    environments, differences = environments_of(entries)
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "peft_regress": version("peft-regress"),
        "entries": [
            encode_entry(entry, environment)
            for entry, environment in zip(entries, environments, strict=True)
        ],
        "environments": differences,
        "orders": [{"by": by, "entries": order} for by, order in orders.items()],
        "metrics": [_encode_metric(name, cases) for name in names],
        "invariants": invariants,
        "devices": [
            {
                "name": device.name,
                "title": device.title,
                "memory": device.memory_bytes,
                "storage": device.storage_bytes,
                "compute": device.compute,
                "source": device.source,
            }
            for device in devices
        ],
        "units": UNITS,
        "thinned": _encode_thinned(entries, most, marks),
        "comparisons": encode_comparisons(
            entries, orders, runs=runs, devices=devices, newest=newest
        ),
        "cases": list(encoded.values()),
    }


def _budgets(
    record: Record,
    cases: Mapping[str, Records],
    present: Mapping[str, int],
    devices: Sequence[DeviceClass],
) -> tuple[BudgetUse, ...]:
    """Return what a case uses of its budget, by the newest record of the case that it refers to."""
    name = None if record.budget is UNSET else record.budget.of
    other = cases[name][present[name]] if name is not None and name in present else None
    return budget_of(record, devices, other)


def _encode_thinned(
    entries: Sequence[Entry], points: int | None, marks: int | None
) -> dict[str, int | None] | None:
    """Return how many values and changes a line may keep, if not all of them fit."""
    if points is None and marks is None:
        return None
    return {"entries": len(entries), "points": points, "marks": marks}


def _orders(entries: Sequence[Entry]) -> dict[str, list[int]]:
    """Return the orders of the entries: by the releases of each package that varies, by number.

    The page starts with the first. If a run was named, it is by number, in which the run is last.
    """
    positions = {id(entry): index for index, entry in enumerate(entries)}
    orders = {}
    for package in SUSPECTS:
        versions = {entry.run.environment.get(package) for entry in entries}
        if len(versions) > 1 and None not in versions:
            orders[package] = [positions[id(entry)] for entry in by_release(entries, package)]
    by_number = {"date": list(range(len(entries)))}
    is_run_last = bool(entries) and entries[-1].role == "run"
    return {**by_number, **orders} if is_run_last else {**orders, **by_number}


def _metric_names(cases: Mapping[str, Records]) -> list[str]:
    found = {
        name for records in cases.values() for record in records.values() for name in record.metrics
    }
    return [name for name in METRICS if name in found] + sorted(found - METRICS.keys())


def _invariant_names(cases: Mapping[str, Records]) -> list[str]:
    found = {
        name
        for records in cases.values()
        for record in records.values()
        for name in record.invariants
    }
    return [name for name in INVARIANTS if name in found] + sorted(found - set(INVARIANTS))


def _encode_metric(name: str, cases: Mapping[str, Records]) -> dict[str, Any]:
    """Return what a metric is, by the table of metrics, else by the newest record."""
    spec = METRICS.get(name)
    if spec is not None:
        return dataclasses.asdict(spec) | {"name": name}
    _, newest = max(
        (
            (index, metric)
            for records in cases.values()
            for index, record in records.items()
            if (metric := record.metrics.get(name)) is not None
        ),
        key=lambda found: found[0],
    )
    return dataclasses.asdict(newest.spec) | {"name": name}


def _encode_facts(present: Record, invariants: Sequence[str]) -> dict[str, Any]:
    """Return the invariants, where they are false, what is repeated, and what numbers are of."""
    repeated = present.repeated_run
    notes = {name: clip(present.note_on(name)) for name in invariants if present.note_on(name)}
    return {
        **({} if present.cost_batch == 1 else {"batch": present.cost_batch}),
        **({"has_score": True} if present.has_score else {}),
        "invariants": [present.invariants.get(name) for name in invariants],
        **({"notes": notes} if notes else {}),
        **({} if repeated is None else {"repeats": clip(repeated)}),
    }


def _encode_lines(
    lines: CaseLines, present: Record, *, indices: Mapping[str, int]
) -> dict[str, Any]:
    """Return the lines of a case, and its changes by order. `now` is exact, lines are rounded."""
    encoded = []
    bounds = Bounds.of(present)
    for name, line in lines.held.items():
        metric = present.metrics.get(name)
        now = None if metric is None else value_of(metric)
        thinned = {"thinned": True} if name in lines.thinned_names else {}
        facts = {} if metric is None else facts_of(name, metric, bounds)
        encoded.append({"metric": indices[name], "now": now, **line._asdict(), **thinned, **facts})
    positions = {name: position for position, name in enumerate(lines.held)}
    return {
        "lines": encoded,
        "marks": {
            by: [
                [positions[name], one.position, one.what, _brief(one.change), one.before]
                for name, transitions in found.items()
                for one in transitions
            ]
            for by, found in lines.transitions.items()
        },
    }


def _brief(change: float | None) -> float | None:
    return None if change is None else float(f"{change:.4g}")


def _share(lengths: Iterable[int], *, room: int, fewest: int) -> int | None:
    """Return how many items a line may keep; None if there is room for all.

    Long lines get the room that short lines do not need.
    """
    ordered = sorted(lengths)
    if sum(ordered) <= room:
        return None
    for left, length in zip(range(len(ordered), 0, -1), ordered, strict=True):
        if length * left > room:
            return max(room // left, fewest)
        room -= length
    return None


def _newest_changes(lines: Mapping[str, CaseLines], by: str, order: Sequence[int]) -> list[Change]:
    """Return the changes of costs in one order of the entries, the newest first."""
    ranks = {index: rank for rank, index in enumerate(order)}
    found = [
        Change(case=name, metric=metric, old=one.before, new=one.position)
        for name, case in lines.items()
        for metric in TRANSITION_METRICS
        for one in case.transitions[by].get(metric, ())
        if one.before is not None
    ]
    return sorted(found, key=lambda change: -ranks[change.new])


def facts_of(name: str, metric: Metric, bounds: Bounds) -> dict[str, Any]:
    """Return `{bound?, seeds?}` of a metric's present value.

    `bound` is how far the value may change: relative, of a fraction and a score the difference, of
    losses that of step 1. It is absent where no change is judged, or every one. `seeds` are the
    lowest and the highest seed, where the value is the mean over seeds.
    """
    facts: dict[str, Any] = {}
    judged = metric.kind != "info" and metric.direction != "none"
    bound = bounds.on(name, metric)[0] if judged else 0.0
    if 0 < bound < math.inf:
        facts["bound"] = bound
    if metric.kind in {"accuracy", "score"}:
        seeds = [sample for sample in metric.samples or () if not isinstance(sample, list)]
        if len(seeds) > 1:
            facts["seeds"] = [min(seeds), max(seeds)]
    return facts
