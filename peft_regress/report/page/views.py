"""The parts of the page that Python writes: its tables and sentences, and the numbers of plots."""

from __future__ import annotations

import dataclasses
import html
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

from peft_regress.devices import DeviceClass
from peft_regress.gate.comparison import Comparison
from peft_regress.metrics import BATCH_SUFFIX, format_value
from peft_regress.report.csv_table import csv_line
from peft_regress.report.document import CaseId, Code, Section, Words
from peft_regress.report.html import HtmlWriter
from peft_regress.report.markdown import MOST_CASES
from peft_regress.report.page.data import Content, encode_entry, gain_name
from peft_regress.report.page.lines import Mark
from peft_regress.report.page.numbers import plot_numbers
from peft_regress.report.page.sheets import Sheets
from peft_regress.report.page.words import (
    ABSENT,
    entry_words,
    failures_words,
    mark_words,
    number,
    order_words,
    packages_words,
    state_of,
    what_badge,
)
from peft_regress.report.results import results
from peft_regress.report.sentences import REPEATED, narrowing_words
from peft_regress.report.table import Row, Table
from peft_regress.report.verdict.cases import budget_row, budgets_of
from peft_regress.report.verdict.document import Extent, outcome_section, verdict_sections
from peft_regress.report.verdict.next_steps import compare_command
from peft_regress.text import clean, count_of

_CATEGORIES: Final = ("param", "buffer", "grad", "activation", "temp", "optimizer")
_FIRST_CASES: Final = 8
_MOST_MOVES: Final = 4
_MOST_BUDGETS: Final = 40
_MOST_SOURCES: Final = 4
_GRAVITY: Final = ("worse", "break", "moved", "better")
_NOTHING_JUDGED: Final = "No verdict: each entry is the first with its cases, so nothing judges it."


def page_parts(content: Content, data: dict[str, Any]) -> dict[str, Any]:
    """Return the page's parts: `data`, its numbers and names, and `html`, what is ready to show.

    `data` are those of `page_data`, of which the page's own are made.
    """
    writer = HtmlWriter(content.cases)
    return {"data": plot_numbers(content, data, writer), "html": _html(content, writer)}


def _html(content: Content, writer: HtmlWriter) -> dict[str, Any]:
    sheets = Sheets(content)
    return {
        "verdict": _newest_verdict(content),
        "stored": writer.document([*_stored(content)]) if content.cases else "",
        "about": html.escape(_about(content)),
        "table": writer.document([_case_table(content, content.now)]),
        "csv": _csv(content),
        "entries": writer.document([_entry_table(content)]),
        "changes": _changes(content),
        "memory": {key: writer.document([table]) for key, table in _memory_tables(content).items()},
        "cases": {
            name: [writer.document(part(name)) for part in (sheets.head, sheets.body)]
            for name in content.cases
        },
        "devices": {device.name: html.escape(_device_words(device)) for device in content.devices},
    }


def _device_words(device: DeviceClass) -> str:
    storage = "storage of your choice"
    if device.storage_bytes is not None:
        storage = f"{format_value(device.storage_bytes, 'byte')} for weights and code"
    memory = format_value(device.memory_bytes, "byte")
    return (
        f"{device.title}: {memory} of memory, {storage}; {device.compute}. Source: {device.source}"
    )


# --- the verdict ------------------------------------------------------------------------------


def _newest_verdict(content: Content, *, top: int = 1) -> str:
    """Return the verdict on the newest entry that something judges."""
    if content.newest is None:
        writer = HtmlWriter(top=1)
        title = Section(title="What fine-tuning costs, and what it gains", level=2)
        return writer.document([title, Section(title=_NOTHING_JUDGED)])
    index, comparison = content.newest
    entry = content.entries[index]
    is_run = entry.role == "run"
    by = "the accepted baselines" if is_run else "what was accepted before it"
    about = f"{entry.name} of {entry_words(entry)}, judged by {by}"
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
    extent = Extent(modules=False, is_accepted=True, is_away=False)
    for (old, new), comparison in content.pairs.items():
        about = f"{content.entries[new].name} judged by {content.entries[old].name}"
        found[f"{old} {new}"] = _verdict_html(comparison, writer, about, extent)
    if content.newest is not None:
        found[f"newest {content.newest[0]}"] = _newest_verdict(content, top=2)
    return found


# --- what is stored ---------------------------------------------------------------------------


def _stored(content: Content) -> Iterator[Section]:
    """Yield what the entries hold, what changed last, budgets, and the best cases."""
    failing = failures_words(content, content.now)
    repeating = sum(record.is_repeat for record in content.now.values())
    newest = content.entries[-1]
    counted = count_of(len(content.cases), "case") + (f" ({failing})" if failing else "")
    counted += f", {repeating} of them {REPEATED}," if repeating else ""
    entries = count_of(len(content.entries), "entry", "entries")
    named = f"{clean(newest.name)} of {entry_words(newest)}"
    yield Section(
        title="What is stored",
        level=2,
        body=(f"{counted} over {entries}; the newest is {named}", _sources(content)),
    )
    yield _last_moves(content)
    uses = [(name, use) for name in content.cases for use in content.budgets(name)]
    if uses:
        over = sum(use.is_over for _, use in uses)
        uses.sort(key=lambda one: (not one[1].is_over, -(one[1].share or 0)))
        rows = (budget_row(CaseId(clean(name), name), use) for name, use in uses[:_MOST_BUDGETS])
        words = f"over budget: {over} of {len(uses)}" if over else "nothing is over its budget"
        more = len(uses) - _MOST_BUDGETS
        notes = [f"and {more} more, of which less is used"] if more > 0 else []
        yield Section(
            title="Budgets", level=2, body=(words, budgets_of(rows, most_rows=MOST_CASES), *notes)
        )
    gain = gain_name(content.now.values())
    known = {name: one for name, one in content.now.items() if gain in one.metrics}
    best = sorted(known, key=lambda name: -known[name].metrics[gain].value)[:_FIRST_CASES]
    table = _case_table(content, best or list(content.now)[:_FIRST_CASES])
    yield Section(
        title=f"The {'most accurate' if gain == 'accuracy' else 'best'} cases",
        level=2,
        body=(table,),
    )


def _sources(content: Content) -> str:
    """Return which entries the present numbers are from, that of most cases first."""
    counts = Counter(content.present.values())
    found = sorted(counts.items(), key=lambda one: (-one[1], -one[0]))
    words = [
        f"{clean(content.entries[at].name)} ({count_of(count, 'case')})" for at, count in found
    ]
    more = len(words) - _MOST_SOURCES
    rest = [f"and {count_of(more, 'more entry', 'more entries')}"] if more > 0 else []
    return f"Present numbers are of {', '.join([*words[:_MOST_SOURCES], *rest])}."


def _about(content: Content) -> str:
    return (
        f"Made from {count_of(len(content.entries), 'entry', 'entries')}. "
        f"{_sources(content) if content.cases else ''} 1 multiply-add is 2 FLOPs; 1 MiB is "
        "1,048,576 bytes. docs/metrics.md defines each metric and its bound."
    )


def _last_moves(content: Content) -> Section:
    """Return what moved at the newest entry, by its order, at which anything did."""
    by, order = next(iter(content.orders.items()))
    found: dict[int, list[tuple[str, str, Mark]]] = defaultdict(list)
    for name, held in content.lines.items():
        for metric, marks in held.marks[by].items():
            for mark in marks:
                found[mark.entry].append((name, metric, mark))
    if not found:
        few = "One entry: nothing to compare it with yet."
        words = few if len(content.entries) == 1 else "Nothing has changed by more than its bound."
        return Section(title=words)
    newest = max(found, key=order.index)
    groups: dict[tuple[str, str], list[tuple[str, str, Mark]]] = defaultdict(list)
    for name, metric, mark in found[newest]:
        groups[mark.what, "" if mark.what == "break" else metric].append((name, metric, mark))
    ranked = sorted(groups.items(), key=lambda one: (_GRAVITY.index(one[0][0]), -len(one[1])))
    lines: list[Words] = []
    for (_, metric), moves in ranked[:_MOST_MOVES]:
        name, of, greatest = max(moves, key=lambda one: one[2].size)
        count = count_of(len({name for name, *_ in moves}), "case")
        size = mark_words(greatest, content.specs[of])
        what = f"{clean(metric)} of {count}, by up to {size}:" if metric else f"{count}:"
        lines.append((what_badge(greatest.what), what, CaseId(clean(name), name)))
    more = len(ranked) - len(lines)
    entry = content.entries[newest]
    before = next((one.before for *_, one in found[newest] if one.before is not None), None)
    packages = "" if before is None else f", {packages_words(content, before, newest)}"
    reason = entry.run.accepted.reason if entry.run.accepted else ""
    return Section(
        title=f"What changed last, by {order_words(by)}: at {clean(entry.name)}{packages}",
        body=(
            *([f"why it was accepted: {clean(reason, longest=240)}"] if reason else []),
            *lines,
            *([f"and {count_of(more, 'more metric')}"] if more > 0 else []),
        ),
    )


# --- tables -----------------------------------------------------------------------------------


def _case_table(content: Content, names: Iterable[str]) -> Table:
    """Return the table of `report`, with the state of each case in the last column."""
    chosen = list(names)
    table = results(content.now[name] for name in chosen)
    rows = tuple(
        Row(cells=(*row.cells, state_of(content, name)))
        for name, row in zip(chosen, table.rows, strict=True)
    )
    return dataclasses.replace(
        table,
        headings=(*table.headings, "state"),
        rows=rows,
        units=(*table.units, ""),
        about=(*table.about, ""),
    )


def _csv(content: Content) -> dict[str, Any]:
    """Return a line of CSV for each case, with exact numbers under the names of their metrics."""
    present = content.now.values()
    names = [name for name in content.specs if any(name in one.metrics for one in present)]
    lines = {}
    for name, record in content.now.items():
        numbers = [
            record.metrics[metric].value if metric in record.metrics else "" for metric in names
        ]
        verdict = content.verdicts.get(name, "")
        lines[name] = csv_line([name, *numbers, record.status_text, verdict])
    return {"header": csv_line(["id", *names, "status", "verdict"]), "lines": lines}


def _entry_table(content: Content) -> Table:
    rows = []
    for index, entry in reversed([*enumerate(content.entries)]):
        known = encode_entry(entry)
        selection = entry.run.selection
        ran = "all" if selection.complete else f"part: {narrowing_words(selection)}"
        cells = (
            Code(clean(entry.name)),
            entry_words(entry),
            entry.role,
            packages_words(content, index - 1, index) if index else ABSENT,
            clean(known["machine"]),
            ran,
            clean(known["reason"]),
        )
        rows.append(Row(cells=cells))
    about = ("against the one before", "machine", "what ran", "why it was accepted")
    headings = ("entry", "date", "role", *about)
    return Table(headings=headings, rows=tuple(rows), caption="Entries, the newest first")


def _memory_tables(content: Content) -> dict[str, Table]:
    """Return the memory by category of each architecture, task and batch."""
    found: dict[str, list[Row]] = defaultdict(list)
    for name, record in content.now.items():
        for suffix in ("", BATCH_SUFFIX):
            metrics = [
                record.metrics.get(f"peak_{category}_bytes{suffix}") for category in _CATEGORIES
            ]
            values = [None if metric is None else metric.value for metric in metrics]
            peak = record.metrics.get(f"peak_bytes{suffix}")
            if not any(value is not None for value in values):
                continue
            sizes = [
                None if peak is None else peak.value,
                *values,
                sum(value for value in values if value is not None),
            ]
            key = f"{record.case.architecture} {record.case.task} {suffix}"
            cells = (number(size, "byte") for size in sizes)
            found[key].append(Row(cells=(CaseId(clean(name), name), *cells)))
    headings = (
        "case",
        "peak",
        "parameters",
        "buffers",
        "gradients",
        "activations",
        "temporaries",
        "optimizer",
        "sum of highs",
    )
    return {
        key: Table(
            headings=headings,
            rows=tuple(rows),
            numbers=tuple(range(1, 9)),
            caption="Memory by category",
        )
        for key, rows in found.items()
    }
