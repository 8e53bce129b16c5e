"""What a page shows, and the same as one JSON value; numbers are unscaled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import msgspec
from msgspec import UNSET

from peft_regress.baselines.history import (
    by_release,
    present_entries,
    present_record,
    records_by_case,
)
from peft_regress.baselines.lines import Entry
from peft_regress.budgets import UNITS
from peft_regress.catalogue.matrix import built_in_matrices
from peft_regress.devices import DeviceClass
from peft_regress.gate.budgets import budget_of
from peft_regress.gate.changes import value_of
from peft_regress.gate.comparison import Comparison
from peft_regress.gate.policy import Bounds
from peft_regress.gate.verdicts import BudgetUse
from peft_regress.metrics import INVARIANTS, METRICS, Metric, MetricSpec, metric_order
from peft_regress.report.page.lines import CaseLines, Records, hold, lines_of_case
from peft_regress.report.sentences import outcome_line
from peft_regress.report.verdict.document import style_of
from peft_regress.report.verdict.next_steps import compare_command
from peft_regress.report.verdict.to_json import encode_budget, encode_verdict
from peft_regress.runs.environment import SUSPECTS
from peft_regress.runs.schema import MIXED_MACHINES, OUTPUT_SCHEMA_VERSION, Record, Run

_MOST_CHARACTERS: Final = 2000
_MATRIX: Final = "default"
"""The matrix that a page starts with."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that a page shows: entries, their cases, the verdict on the newest, other verdicts."""

    entries: Sequence[Entry]
    """In the order of `read_entries`."""
    whole_run: Callable[[Entry], Run]
    """Returns an entry's run with its ledgers."""
    devices: Sequence[DeviceClass] = ()
    newest: tuple[int, Comparison] | None = None
    """The newest entry that something judges, by its index, and the comparison."""
    pairs: Mapping[tuple[int, int], Comparison] = dataclasses.field(default_factory=dict)
    """The verdicts on entries NEW by entries OLD, by their indices."""

    @functools.cached_property
    def cases(self) -> dict[str, dict[int, Record]]:
        """The records of each case by entry."""
        return records_by_case(self.entries)

    @functools.cached_property
    def present(self) -> dict[str, int]:
        """The entry with the present numbers of each case."""
        return present_entries(self.entries)

    @functools.cached_property
    def now(self) -> dict[str, Record]:
        """The present record of each case."""
        return {name: present_record(self.entries, name, at) for name, at in self.present.items()}

    @functools.cached_property
    def orders(self) -> dict[str, list[int]]:
        """The orders of the entries: by the releases of each package that varies, by number.

        The page starts with the first. If a run was named, it is by number: the run is the last.
        """
        positions = {id(entry): index for index, entry in enumerate(self.entries)}
        orders = {}
        for package in SUSPECTS:
            versions = {entry.run.environment.get(package) for entry in self.entries}
            if len(versions) > 1 and None not in versions:
                sorted_entries = by_release(self.entries, package)
                orders[package] = [positions[id(entry)] for entry in sorted_entries]
        by_number = {"date": list(range(len(self.entries)))}
        is_run_last = bool(self.entries) and self.entries[-1].role == "run"
        return {**by_number, **orders} if is_run_last else {**orders, **by_number}

    @functools.cached_property
    def specs(self) -> dict[str, MetricSpec]:
        """What each metric is, by the table of metrics, else by the newest record."""
        found = {
            name: metric
            for records in self.cases.values()
            for record in records.values()
            for name, metric in record.metrics.items()
        }
        return {
            name: METRICS.get(name) or found[name].spec for name in sorted(found, key=metric_order)
        }

    @functools.cached_property
    def lines(self) -> dict[str, CaseLines]:
        """The metrics of each case over the entries."""
        return {
            name: lines_of_case(records, self.entries, names=self.specs, orders=self.orders)
            for name, records in self.cases.items()
        }

    @functools.cached_property
    def verdicts(self) -> dict[str, str]:
        """The verdict on each case whose present numbers the newest verdict judged."""
        if self.newest is None:
            return {}
        index, comparison = self.newest
        return {
            case.id: case.verdict
            for case in comparison.cases
            if case.id in comparison.observed and self.present.get(case.id) == index
        }

    @functools.cached_property
    def standard_methods(self) -> frozenset[str]:
        """The methods that plots start with: those of the default matrix, if a case has one."""
        # By the records: the cases of a project are not imported to show them.
        cases = [record.case for record in self.now.values()]
        standard = {case.method for case in cases if _MATRIX in built_in_matrices(case)}
        return frozenset(standard or {case.method for case in cases})

    def in_order(self, field: str) -> list[str]:
        """Return the tasks or architectures, those with most scores of the default matrix first."""
        scored: dict[str, list[bool]] = {}
        for record in self.now.values():
            has_score = gain_name([record]) in record.metrics
            value = scored.setdefault(getattr(record.case, field), [])
            value += [_MATRIX in built_in_matrices(record.case)] if has_score else []
        return sorted(scored, key=lambda one: (-sum(scored[one]), -len(scored[one]), one))

    def budgets(self, name: str) -> tuple[BudgetUse, ...]:
        """Return what a case uses of its budget, by the newest record of the case it refers to."""
        record = self.now[name]
        other = None if record.budget is UNSET else record.budget.of
        return budget_of(record, self.devices, None if other is None else self.now.get(other))


def gain_name(records: Iterable[Record]) -> str:
    """Return what training gains: `accuracy`, or `score` if only scores were measured."""
    found = list(records)
    has_accuracy = any("accuracy" in record.metrics for record in found)
    has_score = any(record.has_score for record in found)
    return "score" if has_score and not has_accuracy else "accuracy"


def page_data(content: Content) -> dict[str, Any]:
    """Return the page's data: entries, metrics, each case with its lines, the newest verdict."""
    indices = {name: index for index, name in enumerate(content.specs)}
    verdict = None
    if content.newest is not None:
        index, comparison = content.newest
        verdict = {
            "new": index,
            "outcome": outcome_line(comparison),
            "style": style_of(comparison),
            "command": compare_command(comparison.invocation),
            **encode_verdict(comparison),
        }
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "peft_regress": version("peft-regress"),
        "entries": [encode_entry(entry) for entry in content.entries],
        "orders": [{"by": by, "entries": order} for by, order in content.orders.items()],
        "metrics": [
            dataclasses.asdict(spec) | {"name": name} for name, spec in content.specs.items()
        ],
        "devices": [msgspec.to_builtins(device) for device in content.devices],
        "units": UNITS,
        "verdict": verdict,
        "cases": [_encode_case(content, name, indices) for name in content.cases],
    }


def encode_entry(entry: Entry) -> dict[str, Any]:
    """Return what the page knows of an entry."""
    run, machine = entry.run, entry.run.machine
    return {
        "name": entry.name,
        "date": entry.date,
        "role": entry.role,
        "reason": clip(run.accepted.reason) if run.accepted else "",
        "machine": (
            f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads, "
            f"{machine.instruction_set}"
        ),
        # Times are compared only on one machine.
        "machine_digest": None if machine.digest == MIXED_MACHINES else machine.digest,
        "environment": dict(run.environment),
        "complete": run.selection.complete,
        "narrowed_by": list(run.selection.narrowed_by),
    }


def _encode_case(content: Content, name: str, indices: Mapping[str, int]) -> dict[str, Any]:
    records, present, now = content.cases[name], content.present[name], content.now[name]
    lines, verdict = content.lines[name], content.verdicts.get(name)
    bounds = Bounds.of(now)
    known = (*INVARIANTS, *sorted(now.invariants.keys() - set(INVARIANTS)))
    return {
        "id": name,
        **msgspec.to_builtins(now.case),
        "current": present,
        "status": _states(records, present, len(content.entries) - 1),
        **({} if verdict is None else {"verdict": verdict}),
        **({} if now.cost_batch == 1 else {"batch": now.cost_batch}),
        **({"has_score": True} if now.has_score else {}),
        **({} if now.repeated_run is None else {"repeats": clip(now.repeated_run)}),
        "invariants": {one: now.invariants[one] for one in known if one in now.invariants},
        "notes": {one: clip(now.note_on(one)) for one in known if now.note_on(one)},
        "lines": [
            {
                "metric": indices[metric],
                "now": None if (value := now.metrics.get(metric)) is None else value_of(value),
                **held._asdict(),
                **({} if value is None else facts_of(metric, value, bounds)),
            }
            for metric, held in lines.held.items()
        ],
        "marks": {
            by: [
                {"metric": indices[metric], **mark._asdict()}
                for metric, marks in found.items()
                for mark in marks
            ]
            for by, found in lines.marks.items()
        },
        "budgets": [{**encode_budget(use), "unit": use.spec.unit} for use in content.budgets(name)],
    }


def _states(records: Records, present: int, last: int) -> dict[str, Any]:
    """Return the states of a case; the present one includes its error."""
    states = [
        clip(record.status_text) if index == present else record.status
        for index, record in records.items()
    ]
    return hold(list(records), states, last)._asdict()


def clip(text: str) -> str:
    """Return the beginning of a text, as much as a page shows of any."""
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."


def facts_of(name: str, metric: Metric, bounds: Bounds) -> dict[str, Any]:
    """Return `{bound?, seeds?}` of a metric's present value.

    `bound` is how far the value may change: relative, of a fraction and a score the difference, of
    losses that of step 1. It is absent where no change is judged, or every one. `seeds` are the
    lowest and the highest seed, where the value is the mean over seeds.
    """
    facts: dict[str, Any] = {}
    judged = metric.kind != "info" and metric.direction != "none"
    bound = bounds.on(name, metric)[0] if judged else 0.0
    if 0 < bound < float("inf"):
        facts["bound"] = bound
    if metric.kind in {"accuracy", "score"}:
        seeds = [sample for sample in metric.samples or () if not isinstance(sample, list)]
        if len(seeds) > 1:
            facts["seeds"] = [min(seeds), max(seeds)]
    return facts
