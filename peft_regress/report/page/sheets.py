"""The sheet of one case: its state, its numbers, and where they and their changes come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from peft_regress.gate.attribution import explain_metric
from peft_regress.gate.changes import value_of
from peft_regress.gate.verdicts import Observation
from peft_regress.metrics import BATCH_SUFFIX, METRICS, Metric, format_value
from peft_regress.report.document import Badge, Code, Section, Words
from peft_regress.report.explain import change_section
from peft_regress.report.page.data import Content, gain_name
from peft_regress.report.page.words import (
    change_words,
    entry_words,
    method_words,
    number,
    packages_words,
    state_of,
    what_badge,
)
from peft_regress.report.table import Row, Table
from peft_regress.report.verdict.cases import budget_row, budgets_of, case_section
from peft_regress.runs.ledger import rows_of
from peft_regress.runs.schema import Record
from peft_regress.text import clean, count_of

_PRESENT: Final = (
    "forward_flops",
    "backward_flops",
    "optimizer_flops",
    "projection_flops",
    "peak_bytes",
    "peak_bytes_b32",
    "adapter_bytes",
    "edge_train_planned_bytes",
)
"""Metrics whose present numbers are split by module."""
_CHANGED: Final = (
    *_PRESENT,
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
_MOST_CHANGES: Final = 12
_MOST_WHOLE_RUNS: Final = 8
"""Entries whose ledgers are read: the first that are asked for."""
_DIRECTIONS: Final = {"lower": "lower", "higher": "higher", "same": "the same", "none": ""}
_HOLDS: Final = {
    True: Badge("holds", "good"),
    False: Badge("does not hold", "bad"),
    None: Badge("does not apply", "plain"),
}


class Sheets:
    """Write the sheets of all cases; the ledgers of a few entries are read."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._read: set[int] = set()

    def head(self, name: str) -> list[Section]:
        """Return what a sheet begins with: the state, what the verdict says, budgets."""
        content, record, at = self._content, self._content.now[name], self._content.present[name]
        case, state = record.case, state_of(content, name)
        status = clean(record.status_text, longest=600)
        lead: Words = (
            f"{clean(method_words(case))} on {clean(case.architecture)}, task {clean(case.task)}.",
            "Numbers of",
            Code(clean(content.entries[at].name)),
            f"({entry_words(content.entries[at])}):",
            state,
            *([] if status in {state, "ok"} else [f"({status})"]),
        )
        uses = [budget_row("", use) for use in content.budgets(name)]
        sections = [Section(title=lead), *self._verdict(name)]
        if record.repeated_run is not None:
            of = gain_name([record])
            what = f"The first seed repeats {clean(record.repeated_run, longest=200)} bit for bit"
            sections.append(Section(title=f"{what}: its {of} is that of there."))
        if uses:
            sections.append(Section(title="Budgets", level=2, body=(budgets_of(uses),)))
        return sections

    def body(self, name: str) -> list[Section]:
        """Return the numbers of a case, its invariants, and the modules behind both."""
        return [
            *self._metrics(name),
            *self._invariants(name),
            *self._attribution(name),
            *self._changes(name),
        ]

    def _verdict(self, name: str) -> Iterator[Section]:
        """Yield what the newest verdict says of a case, if there is anything to say."""
        newest = self._content.newest
        if newest is not None and self._content.verdicts.get(name) not in {None, "unchanged"}:
            _, comparison = newest
            section = case_section(comparison.verdict_of(name), comparison)
            yield Section(title="What the verdict says", level=2, body=section.body)

    def _metrics(self, name: str) -> Iterator[Section]:
        content, now = self._content, self._content.now[name]
        by, order = next(iter(content.orders.items()))
        marks = content.lines[name].marks[by]
        rows = []
        for metric, held in now.metrics.items():
            here = [one for one in marks.get(metric, ()) if one.entry == content.present[name]]
            spec, value = content.specs[metric], value_of(held)
            shown = number(value, held.unit)
            twin = metric.endswith(BATCH_SUFFIX) and metric.removesuffix(BATCH_SUFFIX) in METRICS
            rows.append(
                Row(
                    cells=(
                        Code(clean(metric)),
                        shown,
                        shown.exact,
                        self._change(name, metric, held, order),
                        what_badge(here[0].what) if here else "",
                        _DIRECTIONS[spec.direction],
                        "the same at batch 32" if twin else clean(spec.about),
                    )
                )
            )
        lost = [one for one in content.lines[name].held if one not in now.metrics]
        notes = [f"not measured this time: {clean(', '.join(lost))}"] if lost else []
        headings = ("metric", "value", "exactly", "change", "", "better is", "what it is")
        table = Table(headings=headings, rows=tuple(rows), numbers=(1, 2, 3), caption="Metrics")
        if rows:
            yield Section(title="Metrics", level=2, body=(table, *notes))

    def _change(self, name: str, metric: str, held: Metric, order: list[int]) -> str:
        """Return the change from the entry before, as far as the two can be compared."""
        records, at = self._content.cases[name], self._content.present[name]
        earlier = [
            one
            for one in order[: order.index(at)]
            if one in records and metric in records[one].metrics
        ]
        if not earlier:
            return "-"
        before = records[earlier[-1]]
        machines = {self._content.entries[one].run.machine.digest for one in (earlier[-1], at)}
        is_timed = held.kind == "seconds" and len(machines) > 1
        if before.definition != self._content.now[name].definition or is_timed:
            return "-"
        old, new = value_of(before.metrics[metric]), value_of(held)
        spec = self._content.specs[metric]
        if old == new:
            return "0 %"
        return change_words(old, new, spec)

    def _invariants(self, name: str) -> Iterator[Section]:
        now = self._content.now[name]
        rows = [
            Row(cells=(Code(clean(fact)), _HOLDS[holds], clean(now.note_on(fact), longest=2000)))
            for fact, holds in now.invariants.items()
        ]
        if rows:
            headings = ("fact", "state", "where, or why not")
            table = Table(headings=headings, rows=tuple(rows), caption="Invariants")
            yield Section(title="Invariants", level=2, body=(table,))

    def _attribution(self, name: str) -> Iterator[Section]:
        """Yield the largest modules behind the present numbers."""
        whole = self._whole(self._content.present[name], name)
        found = [] if whole is None else [*_present(whole)]
        if found:
            title = "Where its numbers come from"
            yield Section(title=title, level=2, body=tuple(found))

    def _changes(self, name: str) -> Iterator[Section]:
        """Yield the modules behind the newest changes of costs."""
        content = self._content
        by, order = next(iter(content.orders.items()))
        marks = content.lines[name].marks[by]
        found = [
            (order.index(one.entry), metric, one.before, one.entry)
            for metric in _CHANGED
            for one in marks.get(metric, ())
            if one.before is not None
        ]
        sections = []
        for _, metric, before, after in sorted(found, reverse=True)[:_MOST_CHANGES]:
            old, new = self._whole(before, name), self._whole(after, name)
            if old is None or new is None:
                continue
            sides = [
                Observation(
                    record=record,
                    run_name=content.entries[at].name,
                    environment=content.entries[at].run.environment,
                    machine=content.entries[at].run.machine,
                )
                for at, record in ((before, old), (after, new))
            ]
            names = [clean(side.run_name) for side in sides]
            section = change_section(explain_metric(metric, old, new), *sides, top=5)
            packages = packages_words(content, before, after)
            title = f"{section.title} ({names[0]} -> {names[1]})"
            body = (packages, *section.body)
            sections.append(Section(title=title, body=body, folded=True))
        if sections:
            yield Section(title="Where changes came from", level=2, body=tuple(sections))

    def _whole(self, index: int, name: str) -> Record | None:
        """Return a record with its ledger, if there is room for the entry."""
        if index not in self._read and len(self._read) == _MOST_WHOLE_RUNS:
            return None
        self._read.add(index)
        return self._content.whole_run(self._content.entries[index]).cases[name]


def _present(record: Record) -> Iterator[Section]:
    """Yield the largest rows of each metric; with the rest they add up to the metric."""
    for name in _PRESENT:
        metric = record.metrics.get(name)
        rows = {} if metric is None else rows_of(record.whole_ledger, name) or {}
        if metric is None or not rows:
            continue
        ordered = sorted(rows.items(), key=lambda row: (-row[1], row[0]))
        shown: list[tuple[str, str, float]] = [
            (clean(module), clean(what), size) for (module, what), size in ordered[:_MOST_ROWS]
        ]
        rest = metric.value - sum(size for *_, size in shown)
        if rest:
            left = count_of(max(len(ordered) - len(shown), 0), "smaller row")
            shown.append((left, "", rest))
        shown.append(("in all", "", metric.value))
        table = Table(
            headings=("module", "operator", "value", "share"),
            rows=tuple(
                Row(
                    cells=(
                        module,
                        what,
                        number(size, metric.unit),
                        format_value(size / metric.value, "fraction") if metric.value else "-",
                    )
                )
                for module, what, size in shown
            ),
            numbers=(2, 3),
            caption=f"{name} by module and operator",
        )
        title = f"{name}: {format_value(metric.value, metric.unit)}"
        yield Section(title=title, body=(table,), folded=True)
