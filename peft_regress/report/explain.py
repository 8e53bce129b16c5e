"""Where a change of costs comes from, as `peft-regress explain` prints it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peft_regress.metrics import format_change, format_value
from peft_regress.report.markdown_syntax import escape_markdown
from peft_regress.report.sentences import environment_lines, wrapped
from peft_regress.runs.ledger import has_old_form
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.gate.attribution import (
        Breakdown,
        Contribution,
        LayerChange,
        MetricChange,
        Side,
    )
    from peft_regress.gate.judge import Observation

__all__ = ["explanation_markdown", "explanation_text"]

_LONGEST_NAME = 80
_LONGEST_COMMAND = 400
_UNITS = {"flop": " FLOP", "byte": " bytes"}
_NO_MODULE = "(no module)"


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of a table that adds up; one that is a part is a part of the row above."""

    name: str
    old: int | float
    new: int | float
    note: str = ""
    is_part: bool = False

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Return what stands in the columns, to the last digit."""
        change = self.new - self.old
        return self.name, f"{self.old:,}", f"{self.new:,}", f"{change:+,}" if change else "0"


@dataclass(frozen=True, kw_only=True)
class _Section:
    """What there is to say of one metric."""

    title: str
    remarks: tuple[str, ...]
    tables: tuple[tuple[str, tuple[_Row, ...]], ...]
    """(what its rows are by, the rows)."""


def explanation_text(
    old: Observation, new: Observation, changes: Sequence[MetricChange], *, top: int
) -> str:
    """Return each change with its rows in a table: the `top` largest layers, then the rest."""
    title, *facts = _heading(old, new)
    blocks = ["\n".join([title, *(wrapped(f"  {fact}", indent="    ") for fact in facts)])]
    for section in _sections(old, new, changes, top=top):
        lines = [section.title]
        lines += [wrapped(f"  {remark}", indent="    ") for remark in section.remarks]
        for by, rows in section.tables:
            lines += _text_table(by, rows)
        blocks.append("\n".join(lines))
    blocks += map(wrapped, _closing(old, new, changes))
    return "\n\n".join(blocks)


def explanation_markdown(
    old: Observation, new: Observation, changes: Sequence[MetricChange], *, top: int
) -> str:
    """Return the same as GitHub-flavoured Markdown."""
    title, *facts = map(escape_markdown, _heading(old, new))
    blocks = [f"## {title}", *facts]
    for section in _sections(old, new, changes, top=top):
        blocks += [f"### {escape_markdown(section.title)}", *map(escape_markdown, section.remarks)]
        for by, rows in section.tables:
            table = [f"| {by} | old | new | change | |", "| --- | ---: | ---: | ---: | --- |"]
            for row in rows:
                name, *numbers = row.cells
                first = ("&nbsp;&nbsp;" if row.is_part else "") + escape_markdown(name)
                cells = (first, *numbers, escape_markdown(row.note))
                table.append(f"| {' | '.join(cells)} |")
            blocks.append("\n".join(table))
    blocks += map(escape_markdown, _closing(old, new, changes))
    return "\n\n".join(blocks)


def _heading(old: Observation, new: Observation) -> Iterator[str]:
    yield f"{clean(new.record.case.id)}: {clean(old.origin)} -> {clean(new.origin)}"
    moved = environment_lines(old.environment, new.environment)
    yield f"environment: {'; '.join(moved) or 'the same packages on both sides'}"
    before, after = old.record.status_text, new.record.status_text
    if before != after:
        yield f"status: {clean(before)} -> {clean(after)}"
    elif old.record.status != "ok":
        yield f"status: {clean(before)} on both sides"
    if old.record.definition != new.record.definition:
        yield "defined otherwise: data, source model, settings or protocol are not the same"


def _closing(old: Observation, new: Observation, changes: Sequence[MetricChange]) -> Iterator[str]:
    """Say it where nothing moved, or where rows are missing, and how to get them."""
    if not old.record.status == new.record.status == "ok":
        yield "a case that did not come through has no costs to compare"
    elif not changes:
        yield "no cost differs: all FLOPs, all bytes and all counts are equal"
    case = new.record.case
    select = f'task="{case.task}", method="{case.method}", architecture="{case.architecture}"'
    rank = "" if case.rank is None else f", rank={case.rank}"
    marker = shlex.quote(f"case({select}{rank})")
    command = f"pytest benchmarks -m {marker} --regress-save run.json"
    sides: tuple[tuple[Side, Observation], ...] = (("old", old), ("new", new))
    for side, observation in sides:
        if any(side in change.not_held_by for change in changes):
            earlier = has_old_form(observation.record.ledger)
            form = "a ledger of an earlier form, which has less" if earlier else "no ledger"
            yield (
                f"{clean(observation.origin)} holds {form}. For all rows, measure it again where "
                f"its packages are installed: {clean(command, longest=_LONGEST_COMMAND)}"
            )


def _sections(
    old: Observation, new: Observation, changes: Sequence[MetricChange], *, top: int
) -> Iterator[_Section]:
    for index, change in enumerate(changes):
        remarks = list(_remarks(change, old, new))
        tables: list[tuple[str, tuple[_Row, ...]]] = []
        twins = [c.metric for c in changes[:index] if c.breakdowns == change.breakdowns]
        if change.breakdowns and twins:
            remarks.append(f"row for row as {twins[0]}")
        elif any(split.rows or any(split.unattributed) for split in change.breakdowns):
            for split in change.breakdowns:
                remarks += _run_sentences(split, change)
                tables.append((f"by {split.by}", tuple(_table(split, change, top=top))))
        yield _Section(title=_title(change), remarks=tuple(remarks), tables=tuple(tables))


def _title(change: MetricChange) -> str:
    def show(value: float | None) -> str:
        return "absent" if value is None else format_value(value, change.unit)

    old, new = show(change.old), show(change.new)
    if change.old == change.new:
        return f"{change.metric}: {old} on both sides"
    if old == new:
        # Rounded they look alike.
        old, new = f"{change.old:,}", f"{change.new:,}"
    is_relative = change.relative_change is not None and change.new is not None
    relative = f", {format_change(change.relative_change)}" if is_relative else ""
    moved = f"{change.change:+,}{_UNITS.get(change.unit, '')}"
    return f"{change.metric}: {old} -> {new}, {moved}{relative}"


def _remarks(change: MetricChange, old: Observation, new: Observation) -> Iterator[str]:
    if change.peak_phases is not None:
        before, after = map(clean, change.peak_phases)
        moved = f" ({before} before)" if before != after else ""
        yield f"at its peak the step is in: {after}{moved}"
    if change.unit == "count":
        yield "a count, which no ledger splits"
    origins: dict[Side, str] = {"old": clean(old.origin), "new": clean(new.origin)}
    for side in change.not_held_by:
        yield f"not split: the ledger of {origins[side]} has no rows of it"
    for split in change.breakdowns:
        for origin, missing in zip(origins.values(), split.unattributed, strict=True):
            if missing:
                yield f"the ledger of {origin} does not add up, by {split.by}: {missing:+,} is left"


def _run_sentences(split: Breakdown, change: MetricChange) -> Iterator[str]:
    """Say where several layers changed by whole runs of what an adapter wraps."""
    found: dict[tuple[str, int], list[LayerChange]] = {}
    for layer in split.layers:
        if layer.base_runs is not None:
            found.setdefault((layer.what, layer.base_runs), []).append(layer)
    for (what, runs), layers in found.items():
        if len(layers) > 1:
            total = sum(layer.change for layer in layers)
            amount = f"{'+' if total > 0 else '-'}{format_value(abs(total), change.unit)}"
            yield (
                f"{len(layers)} layers, {amount}: in each as much as "
                f"{_runs(runs)} of its base layer's {clean(what)}"
            )


def _runs(count: int) -> str:
    if abs(count) == 1:
        return "one more run" if count > 0 else "one run fewer"
    return f"{count} more runs" if count > 0 else f"{-count} runs fewer"


def _table(split: Breakdown, change: MetricChange, *, top: int) -> Iterator[_Row]:
    """Yield rows of which all but the parts add up to the last, the metric, on either side."""
    moved = [layer for layer in split.layers if layer.change]
    inside = [layer for layer in split.layers if not layer.change]
    for layer in moved[:top]:
        yield from _layer_rows(layer, split)
    for name, rest in (("more", moved[top:]), ("that moved within themselves alone", inside)):
        if rest:
            sides = (sum(layer.old for layer in rest), sum(layer.new for layer in rest))
            yield _Row(name=f"{len(rest)} {name}", old=sides[0], new=sides[1])
    if split.unmoved:
        yield _Row(name="what did not move", old=split.unmoved, new=split.unmoved)
    if any(split.unattributed):
        old, new = split.unattributed
        yield _Row(name="not in the ledger", old=old, new=new)
    yield _Row(name="sum", old=change.old or 0, new=change.new or 0)


def _layer_rows(layer: LayerChange, split: Breakdown) -> Iterator[_Row]:
    parts = [
        _Row(name=_part_name(row, layer), old=row.old, new=row.new, is_part=True)
        for row in layer.rows
    ]
    place = "" if split.by == "operator" else (_short(layer.layer) or _NO_MODULE) + " "
    name, note = place + _short(layer.what), ""
    if [row.module for row in layer.rows] == [layer.layer]:
        name += _presence(layer.rows[0])
        parts.clear()
    if layer.base_runs is not None:
        base = f"{clean(layer.base)}'s {clean(layer.what)}"
        note = f"as much as {_runs(layer.base_runs)} of {base}"
    yield _Row(name=name, old=layer.old, new=layer.new, note=note)
    yield from parts


def _part_name(row: Contribution, layer: LayerChange) -> str:
    return (_short(row.module.removeprefix(layer.layer)) or "itself") + _presence(row)


def _presence(row: Contribution) -> str:
    """Mark a module that one side has alone."""
    return {"old": " (gone)", "new": " (new)", None: ""}[row.only_in]


def _short(name: str) -> str:
    return clean(name, longest=_LONGEST_NAME)


def _text_table(by: str, rows: Sequence[_Row]) -> Iterator[str]:
    shown = [(("  " if row.is_part else "") + row.cells[0], *row.cells[1:]) for row in rows]
    cells = [(by, "old", "new", "change"), *shown]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    notes = ["", *(row.note for row in rows)]
    for (name, *numbers), note in zip(cells, notes, strict=True):
        aligned = (f"{n:>{width}}" for n, width in zip(numbers, widths[1:], strict=True))
        yield "  ".join(["", f"{name:<{widths[0]}}", *aligned])
        if note:
            yield f"    {note}"
