"""Where a change in cost comes from: the report of `peft-regress explain`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from peft_regress.metrics import format_change, format_value
from peft_regress.report.document import Code, Section
from peft_regress.report.sentences import environment_lines
from peft_regress.report.table import Row, Table
from peft_regress.runs.ledger import has_old_form
from peft_regress.text import clean, count_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.gate.attribution import (
        Breakdown,
        Contribution,
        LayerChange,
        MetricChange,
        Side,
    )
    from peft_regress.gate.verdicts import Observation
    from peft_regress.report.document import Document

_LONGEST_NAME = 80
_LONGEST_COMMAND = 400
_UNITS = {"flop": " FLOP", "byte": " bytes"}
_NO_MODULE = "(no module)"


def explanation(
    old: Observation, new: Observation, changes: Sequence[MetricChange], *, top: int
) -> Document:
    """Return each change with a table that adds up: the `top` largest layers, then the rest."""
    title, *facts = _heading(old, new)
    return [
        Section(title=title, body=tuple(facts), level=2),
        *(
            _section(change, old, new, earlier=changes[:index], top=top)
            for index, change in enumerate(changes)
        ),
        *(Section(title=line) for line in _closing(old, new, changes)),
    ]


def _heading(old: Observation, new: Observation) -> Iterator[str]:
    yield f"{clean(new.record.case.id)}: {clean(old.run_name)} -> {clean(new.run_name)}"
    moved = environment_lines(old.environment, new.environment)
    yield f"environment: {'; '.join(moved) or 'the same packages on both sides'}"
    before, after = old.record.status_text, new.record.status_text
    if before != after:
        yield f"status: {clean(before)} -> {clean(after)}"
    elif old.record.status != "ok":
        yield f"status: {clean(before)} on both sides"
    if old.record.definition != new.record.definition:
        yield "definition changed: data, source model, settings or protocol differ"


def _closing(
    old: Observation, new: Observation, changes: Sequence[MetricChange]
) -> Iterator[str | tuple[str, ...]]:
    """Say if nothing changed, or which rows are missing and how to get them."""
    if not old.record.status == new.record.status == "ok":
        yield "a case that failed has no costs to compare"
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
            earlier = has_old_form(observation.record.whole_ledger)
            form = "a ledger of an earlier form, which has less" if earlier else "no ledger"
            held = f"{clean(observation.run_name)} holds {form}."
            how = "For all rows, measure the case again with its packages installed:"
            yield f"{held} {how}", Code(clean(command, longest=_LONGEST_COMMAND))


def _section(
    change: MetricChange,
    old: Observation,
    new: Observation,
    *,
    earlier: Sequence[MetricChange],
    top: int,
) -> Section:
    body: list[str | Table] = list(_remarks(change, old, new))
    twins = [other.metric for other in earlier if other.breakdowns == change.breakdowns]
    if change.breakdowns and twins:
        body.append(f"same rows as {twins[0]}")
    elif any(split.rows or any(split.unattributed) for split in change.breakdowns):
        for split in change.breakdowns:
            body += _run_sentences(split, change)
            headings = (f"by {split.by}", "old", "new", "change")
            rows = tuple(_table_rows(split, change, top=top))
            body.append(Table(headings=headings, rows=rows, numbers=(1, 2, 3)))
    return Section(title=_title(change), body=tuple(body), level=3)


def _title(change: MetricChange) -> str:
    def show(value: float | None) -> str:
        return "absent" if value is None else format_value(value, change.unit)

    old, new = show(change.old), show(change.new)
    if change.old == change.new:
        return f"{change.metric}: {old} on both sides"
    if old == new:
        # They are equal only when rounded.
        old, new = f"{change.old:,}", f"{change.new:,}"
    is_relative = change.relative_change is not None and change.new is not None
    relative = f", {format_change(change.relative_change)}" if is_relative else ""
    moved = f"{change.change:+,}{_UNITS.get(change.unit, '')}"
    return f"{change.metric}: {old} -> {new}, {moved}{relative}"


def _remarks(change: MetricChange, old: Observation, new: Observation) -> Iterator[str]:
    if change.peak_phases is not None:
        before, after = map(clean, change.peak_phases)
        moved = f" ({before} before)" if before != after else ""
        yield f"the peak is in the {after} phase{moved}"
    if change.unit == "count":
        yield "a count; ledgers do not split counts"
    names: dict[Side, str] = {"old": clean(old.run_name), "new": clean(new.run_name)}
    for side in change.not_held_by:
        yield f"not split: the ledger of {names[side]} has no rows of this metric"
    for split in change.breakdowns:
        for name, missing in zip(names.values(), split.unattributed, strict=True):
            if missing:
                yield f"the ledger of {name} does not add up by {split.by}: {missing:+,} is left"


def _run_sentences(split: Breakdown, change: MetricChange) -> Iterator[str]:
    """Count the layers that changed by whole runs of the operator that an adapter wraps."""
    found: dict[tuple[str, int], list[LayerChange]] = {}
    for layer in split.layers:
        if layer.base_runs is not None:
            found.setdefault((layer.what, layer.base_runs), []).append(layer)
    for (what, runs), layers in found.items():
        if len(layers) > 1:
            total = sum(layer.change for layer in layers)
            amount = f"{'+' if total > 0 else '-'}{format_value(abs(total), change.unit)}"
            yield (
                f"{len(layers)} layers, {amount}: each {_runs(runs)} of its base layer's "
                f"{clean(what)}"
            )


def _runs(count: int) -> str:
    return (
        f"costs {count_of(count, 'extra run')}" if count > 0 else f"saves {count_of(-count, 'run')}"
    )


def _table_rows(split: Breakdown, change: MetricChange, *, top: int) -> Iterator[Row]:
    """Yield rows. All but the parts add up to the last row, the metric, on either side."""
    moved = [layer for layer in split.layers if layer.change]
    inside = [layer for layer in split.layers if not layer.change]
    for layer in moved[:top]:
        yield from _layer_rows(layer, split)
    for name, rest in (("more", moved[top:]), ("with changes inside that cancel out", inside)):
        if rest:
            sides = (sum(layer.old for layer in rest), sum(layer.new for layer in rest))
            yield _row(f"{len(rest)} {name}", *sides)
    if split.unmoved:
        yield _row("unchanged", split.unmoved, split.unmoved)
    if any(split.unattributed):
        yield _row("not in the ledger", *split.unattributed)
    yield _row("sum", change.old or 0, change.new or 0)


def _layer_rows(layer: LayerChange, split: Breakdown) -> Iterator[Row]:
    parts = [_row(_part_name(row, layer), row.old, row.new, is_part=True) for row in layer.rows]
    module = "" if split.by == "operator" else (_short(layer.layer) or _NO_MODULE) + " "
    name = module + _short(layer.what)
    notes: tuple[str, ...] = ()
    if [row.module for row in layer.rows] == [layer.layer]:
        name += _presence(layer.rows[0])
        parts.clear()
    if layer.base_runs is not None:
        base = f"{clean(layer.base)}'s {clean(layer.what)}"
        notes = (f"{_runs(layer.base_runs)} of {base}",)
    yield _row(name, layer.old, layer.new, notes=notes)
    yield from parts


def _row(name: str, old: float, new: float, **more: Any) -> Row:
    """Return a row with its numbers to the last digit."""
    change = new - old
    return Row(cells=(name, f"{old:,}", f"{new:,}", f"{change:+,}" if change else "0"), **more)


def _part_name(row: Contribution, layer: LayerChange) -> str:
    return (_short(row.module.removeprefix(layer.layer)) or "itself") + _presence(row)


def _presence(row: Contribution) -> str:
    """Mark a module that only one side has."""
    return {"old": " (gone)", "new": " (new)", None: ""}[row.only_in]


def _short(name: str) -> str:
    return clean(name, longest=_LONGEST_NAME)
