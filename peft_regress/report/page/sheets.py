"""The sheet of one case: its state, its numbers, and where they come from."""

from collections.abc import Hashable, Iterator
from typing import Final

from msgspec import UNSET

from peft_regress.gate.changes import value_of
from peft_regress.metrics import BATCH_SUFFIX, METRICS, format_value
from peft_regress.report.document import Badge, Code, Section, Words
from peft_regress.report.layout import Row, Table
from peft_regress.report.page.content import Content, gain_name, method_words, number
from peft_regress.report.verdict.cases import budgets_of, case_section
from peft_regress.runs.ledger import rows_of
from peft_regress.runs.schema import Record
from peft_regress.text import clean, count_of

_PRESENT: Final = (
    "forward_flops", "backward_flops", "optimizer_flops", "projection_flops",
    "peak_bytes", "peak_bytes_b32", "adapter_bytes", "edge_train_planned_bytes",
)  # fmt: skip
"""Metrics whose present numbers are split by module."""
_MOST_ROWS: Final = 10
_DIRECTIONS: Final = {"lower": "lower", "higher": "higher", "same": "the same", "none": ""}
_HOLDS: Final = {
    True: Badge("holds", "good"),
    False: Badge("does not hold", "bad"),
    None: Badge("does not apply", "plain"),
}


def sheet_head(content: Content, name: str) -> list[Section]:
    """Return what a sheet begins with: the state, what the verdict says, budgets."""
    record, at = content.now[name], content.present[name]
    case, state = record.case, content.state_of(name)
    status = clean(record.status_text, longest=600)
    lead: Words = (
        f"{method_words(case)} on {clean(case.architecture)}, task {clean(case.task)}.",
        "Numbers of",
        Code(clean(content.entries[at].name)),
        f"({content.entries[at].day}):",
        state,
        *([] if status in {state, "ok"} else [f"({status})"]),
    )
    sections = [Section(title=lead)]
    if content.newest is not None and content.verdicts.get(name) not in {None, "unchanged"}:
        _, comparison = content.newest
        said = case_section(comparison.verdict_of(name), comparison).body
        sections.append(Section(title="What the verdict says", level=2, body=said))
    if record.repeated_run is not None:
        of = gain_name([record])
        how = "bit for bit" if record.referee is UNSET else "in float64"
        what = f"The first seed repeats {clean(record.repeated_run, longest=200)} {how}"
        sections.append(Section(title=f"{what}: its {of} is that of there."))
    uses = content.budgets(name)
    if uses:
        sections.append(Section(title="Budgets", level=2, body=(budgets_of(uses),)))
    return sections


def sheet_body(content: Content, name: str) -> list[Section]:
    """Return the numbers of a case, and its invariants."""
    parts = {"Metrics": _metrics(content, name), "Invariants": _invariants(content.now[name])}
    bodies = {title: tuple(body) for title, body in parts.items()}
    return [Section(title=title, level=2, body=body) for title, body in bodies.items() if body]


def sheet_modules(record: Record) -> list[Section]:
    """Return the modules behind the numbers of a case."""
    body = tuple(_present(record))
    return [Section(title="Where its numbers come from", level=2, body=body)] if body else []


def key_of_modules(record: Record) -> Hashable:
    """Return what records with equal `sheet_modules` share: those of other tasks, for instance."""
    ledger = record.ledger if isinstance(record.ledger, str) else id(record.ledger)
    return ledger, *map(record.value_of, _PRESENT)


def _metrics(content: Content, name: str) -> Iterator[Table | str]:
    now = content.now[name]
    marks = content.marks[name]
    rows = []
    for metric, held in now.metrics.items():
        here = [one for one in marks.get(metric, ()) if one.entry == content.present[name]]
        spec, shown = content.specs[metric], number(value_of(held), held.unit)
        twin = metric.endswith(BATCH_SUFFIX) and metric.removesuffix(BATCH_SUFFIX) in METRICS
        row = Row.of(
            Code(clean(metric)),
            shown,
            shown.exact,
            here[0].words(spec) if here else "",
            here[0].badge if here else "",
            _DIRECTIONS[spec.direction],
            "the same at batch 32" if twin else clean(spec.about),
        )
        rows.append(row)
    headings = ("metric", "value", "exactly", "change", "", "better is", "what it is")
    table = Table(headings=headings, rows=tuple(rows), numbers=(1, 2, 3), caption="Metrics")
    if rows:
        yield table
        lost = [one for one in content.held(name) if one not in now.metrics]
        if lost:
            yield f"not measured this time: {clean(', '.join(lost))}"


def _invariants(record: Record) -> Iterator[Table]:
    rows = tuple(
        Row.of(Code(clean(fact)), _HOLDS[holds], clean(record.note_on(fact), longest=2000))
        for fact, holds in record.invariants.items()
    )
    if rows:
        headings = ("fact", "state", "where, or why not")
        yield Table(headings=headings, rows=rows, caption="Invariants")


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
            left = max(len(ordered) - _MOST_ROWS, 0)
            shown.append((count_of(left, "smaller row"), "", rest))
        shown.append(("in all", "", metric.value))
        table = Table(
            headings=("module", "operator", "value", "share"),
            rows=tuple(
                Row.of(
                    *names,
                    number(size, metric.unit),
                    format_value(size / metric.value, "fraction") if metric.value else "-",
                )
                for *names, size in shown
            ),
            numbers=(2, 3),
            caption=f"{name} by module and operator",
        )
        title = f"{name}: {format_value(metric.value, metric.unit)}"
        yield Section(title=title, body=(table,), folded=True)
