"""The parts of the page that Python writes: its tables and sentences, and the rows of plots."""

import dataclasses
import html
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

from peft_regress.baselines.history import select_moves
from peft_regress.gate.changes import value_of
from peft_regress.gate.comparison import Comparison
from peft_regress.metrics import BATCH_SUFFIX, format_value
from peft_regress.project.devices import RUNTIME_BYTES, DeviceClass, room
from peft_regress.report.document import CaseId, Code, Number, Section
from peft_regress.report.history import history_document
from peft_regress.report.html import HtmlWriter
from peft_regress.report.layout import Row, Table
from peft_regress.report.markdown import MOST_CASES
from peft_regress.report.page.content import ABSENT, Content, Mark, number
from peft_regress.report.page.data import COSTS, batches_of, encode_case, shared_data, tradeoffs
from peft_regress.report.page.sheets import key_of_modules, sheet_body, sheet_head, sheet_modules
from peft_regress.report.results import results
from peft_regress.report.sentences import REPEATED, narrowing_words
from peft_regress.report.verdict.cases import budgets_of
from peft_regress.report.verdict.next_steps import compare_command
from peft_regress.report.verdict.sections import Extent, outcome_section, verdict_sections
from peft_regress.text import clean, count_of

_CATEGORIES: Final = {
    "param": "parameters",
    "buffer": "buffers",
    "grad": "gradients",
    "activation": "activations",
    "temp": "temporaries",
    "optimizer": "optimizer",
}
_ABOUT: Final = (
    "1 multiply-add is 2 FLOPs; 1 MiB is 1,048,576 bytes. docs/metrics.md defines each metric and "
    "its bound."
)
_MOST_BUDGETS: Final = 40
_NOTHING_JUDGED: Final = "No verdict: each entry is the first with its cases, so nothing judges it."


def page_parts(content: Content) -> dict[str, Any]:
    """Return the page's parts: `data`, its numbers and names, and `html`, what is ready to show.

    What there is of each case is an iterator, since all of it together is large.
    """
    writer = HtmlWriter(content.cases)
    frame, rows = _mark_rows(content, writer)
    data = shared_data(content) | {
        "cases": (_case_data(content, name, rows) for name in content.cases),
        "batches": batches_of(content),
        "costs": [{"value": cost.name, "label": cost.label} for cost in COSTS],
        "tasks": content.in_order("task"),
        "architectures": content.in_order("architecture"),
        "standard": sorted(content.standard_methods),
        "newest": len(content.entries) - 1 if content.newest is None else content.newest[0],
        "marks": frame,
        "tradeoffs": tradeoffs(content, writer),
    }
    return {"data": data, "html": _html(content, writer)}


def _case_data(content: Content, name: str, rows: Iterator[str]) -> dict[str, Any]:
    case = encode_case(content, name)
    for mark in case["marks"]:
        mark["row"] = next(rows)
    return case


def _html(content: Content, writer: HtmlWriter) -> dict[str, Any]:
    alike = {key_of_modules(record): record for record in content.now.values()}
    positions = {key: index for index, key in enumerate(alike)}
    return {
        "verdict": _newest_verdict(content),
        "stored": writer.document([*_stored(content)]) if content.cases else "",
        "about": f"Made from {count_of(len(content.entries), 'entry', 'entries')}. {_ABOUT}",
        "table": writer.document([_case_table(content)]),
        "entries": writer.document([_entry_table(content)]),
        "changes": _changes(content),
        "memory": {key: writer.document([table]) for key, table in _memory_tables(content).items()},
        "cases": (
            [
                writer.document(sheet_head(content, name)),
                writer.document(sheet_body(content, name)),
                positions[key_of_modules(record)],
            ]
            for name, record in content.now.items()
        ),
        "modules": [writer.document(sheet_modules(record)) for record in alike.values()],
        "devices": {device.name: html.escape(_device_words(device)) for device in content.devices},
    }


def _device_words(device: DeviceClass) -> str:
    storage = "storage of your choice"
    if device.storage_bytes is not None:
        storage = f"{format_value(device.storage_bytes, 'byte')} for weights and code"
    memory, eager, galore, peft, planned = (
        format_value(size, "byte")
        for size in (device.memory_bytes, *(room(device, runtime) for runtime in RUNTIME_BYTES))
    )
    return (
        f"{device.title}: {memory} of memory, of which an update's tensors may take {eager} in "
        f"PyTorch, {galore} with GaLore, {peft} with PEFT, {planned} in ExecuTorch; {storage}; "
        f"{device.compute}. Source: {device.source}"
    )


def _newest_verdict(content: Content, *, top: int = 1) -> str:
    if content.newest is None:
        title = Section(title="What fine-tuning costs, and what it gains", level=2)
        return HtmlWriter(top=1).document([title, Section(title=_NOTHING_JUDGED)])
    index, comparison = content.newest
    entry = content.entries[index]
    is_run = entry.role == "run"
    by = "the accepted baselines" if is_run else "what was accepted before it"
    about = f"{entry.name} of {entry.day}, judged by {by}"
    if not comparison.complete:
        about += f"; partial run: {narrowing_words(entry.run.selection)}"
    accepted = None if is_run else entry.run.accepted
    if accepted is not None and comparison.lenient_exit_code and accepted.reason:
        about += f"; accepted, because: {clean(accepted.reason, longest=300)}"
    extent = Extent(is_accepted=not is_run, is_away=is_run)
    written = _verdict_html(comparison, HtmlWriter(content.cases, top=top), about, extent)
    if top > 1:
        return written
    return written + '<p><a href="#/changes">Compare any two entries or runs</a></p>'


def _verdict_html(comparison: Comparison, writer: HtmlWriter, about: str, extent: Extent) -> str:
    outcome = outcome_section(comparison)
    command = Section(title=("In a terminal:", Code(compare_command(comparison.invocation))))
    box = writer.document([outcome, command])
    return (
        f'<section class="verdict {outcome.style}-edge" aria-label="Verdict">'
        f'<p class="kicker">{html.escape(clean(about, longest=600))}</p>{box}</section>'
        f"{writer.document(verdict_sections(comparison, extent))}"
    )


def _changes(content: Content) -> dict[str, str]:
    """Return the verdict on each judged pair of entries, by both; and the newest verdict."""
    found = {}
    writer = HtmlWriter(content.cases)
    extent = Extent(is_accepted=True, is_away=False)
    for (old, new), comparison in content.pairs.items():
        about = f"{content.entries[new].name} judged by {content.entries[old].name}"
        found[f"{old} {new}"] = _verdict_html(comparison, writer, about, extent)
    if content.newest is not None:
        found[f"newest {content.newest[0]}"] = _newest_verdict(content, top=2)
    return found


def _stored(content: Content) -> Iterator[Section]:
    """Yield what the entries hold, what changed last, and budgets."""
    states = Counter(record.status for record in content.now.values() if record.status != "ok")
    failing = ", ".join(f"{count} {status}" for status, count in sorted(states.items()))
    repeating = sum(record.is_repeat for record in content.now.values())
    newest = content.entries[-1]
    counted = count_of(len(content.cases), "case") + (f" ({failing})" if failing else "")
    counted += f", {repeating} of them {REPEATED}," if repeating else ""
    entries = count_of(len(content.entries), "entry", "entries")
    named = f"{clean(newest.name)} of {newest.day}"
    words = f"{counted} over {entries}; the newest is {named}"
    yield Section(title="What is stored", level=2, body=(words,))
    *_, last = history_document(select_moves(content.entries))
    if last.level:
        yield Section(title=f"What changed last: {last.title}", body=last.body)
    else:
        yield Section(title="Nothing has moved by more than its bound.")
    uses = [use for name in content.cases for use in content.budgets(name)]
    if uses:
        over = sum(use.is_over for _, use in uses)
        said = f"over budget: {over} of {len(uses)}" if over else "nothing is over its budget"
        table = budgets_of(uses, most=_MOST_BUDGETS, most_rows=MOST_CASES)
        yield Section(title="Budgets", level=2, body=(said, table))


def _case_table(content: Content) -> Table:
    """Return the table of `report`, with the state of each case in the last column."""
    table = results(content.now.values())
    paired = zip(content.now, table.rows, strict=True)
    rows = tuple(Row.of(*row.cells, content.state_of(name)) for name, row in paired)
    headings, units, about = (*table.headings, "state"), (*table.units, ""), (*table.about, "")
    return dataclasses.replace(table, headings=headings, rows=rows, units=units, about=about)


def _entry_table(content: Content) -> Table:
    rows = []
    for index, entry in reversed([*enumerate(content.entries)]):
        selection, machine = entry.run.selection, entry.run.machine
        ran = "all" if selection.complete else f"part: {narrowing_words(selection)}"
        row = Row.of(
            Code(clean(entry.name)),
            entry.day,
            entry.role,
            content.packages_words(index - 1, index) if index else ABSENT,
            clean(f"{machine.cpu}, {machine.cores} cores"),
            ran,
            _reason(content, index),
        )
        rows.append(row)
    about = ("against the one before", "machine", "what ran", "why it was accepted")
    headings = ("entry", "date", "role", *about)
    return Table(headings=headings, rows=tuple(rows), caption="Entries, the newest first")


def _reason(content: Content, index: int) -> str:
    accepted = content.entries[index].run.accepted
    return clean(accepted.reason, longest=2000) if accepted else ""


def _memory_tables(content: Content) -> dict[str, Table]:
    """Return the memory by category of each architecture, task and batch."""
    found: dict[str, list[Row]] = defaultdict(list)
    for name, record in content.now.items():
        values = {metric: held.value for metric, held in record.metrics.items()}
        for suffix in ("", BATCH_SUFFIX):
            parts = [values.get(f"peak_{category}_bytes{suffix}") for category in _CATEGORIES]
            known = [value for value in parts if value is not None]
            if known:
                sizes = (values.get(f"peak_bytes{suffix}"), *parts, sum(known))
                cells = (number(size, "byte") for size in sizes)
                key = f"{record.case.architecture} {record.case.task} {suffix}"
                found[key].append(Row.of(CaseId(clean(name), name), *cells))
    headings = ("case", "peak", *_CATEGORIES.values(), "sum of highs")
    numbers, title = tuple(range(1, len(headings))), "Memory by category"
    return {
        key: Table(headings=headings, rows=tuple(rows), numbers=numbers, caption=title)
        for key, rows in found.items()
    }


def _mark_rows(content: Content, writer: HtmlWriter) -> tuple[str, Iterator[str]]:
    """Return the frame of the table of marks, and the rows of all cases' marks."""
    rows = tuple(
        _mark_row(content, name, metric, mark)
        for name, found in content.marks.items()
        for metric, marks in found.items()
        for mark in marks
    )
    numbers = ("entry", "case", "what", "from", "to", "change")
    headings = (*numbers, "what changed", "why it was accepted")
    table = Table(headings=headings, rows=rows, numbers=(3, 4, 5), caption="Where it changed")
    frame, written = writer.parts(table)
    return frame, iter(written)


def _mark_row(content: Content, name: str, metric: str, mark: Mark) -> Row:
    spec, records = content.specs[metric], content.cases[name]

    def at(entry: int | None) -> Number:
        record = None if entry is None else records[entry]
        found = record.metrics.get(metric) if record else None
        return number(None if found is None else value_of(found), spec.unit)

    return Row.of(
        Code(clean(content.entries[mark.entry].name)),
        CaseId(clean(name), name),
        mark.badge,
        at(mark.before),
        at(mark.entry),
        mark.words(spec),
        "" if mark.before is None else content.packages_words(mark.before, mark.entry),
        _reason(content, mark.entry),
    )
