"""Where a change in cost comes from: the report of `peft-regress explain`."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from peft_regress.gate.attribution import (
    Breakdown,
    Contribution,
    LayerChange,
    MetricChange,
    Side,
)
from peft_regress.gate.facts import definition_reasons
from peft_regress.gate.verdicts import Observation
from peft_regress.metrics import BATCH_SUFFIX, format_change, format_value
from peft_regress.report.document import Code, Document, Section
from peft_regress.report.sentences import (
    definition_words,
    environment_lines,
    false_on_a_side,
    shown_value,
    with_note,
)
from peft_regress.report.table import Row, Table
from peft_regress.text import clean, count_of

_LONGEST_NAME = 80
_LONGEST_COMMAND = 400
_UNITS = {"flop": " FLOP", "byte": " bytes"}
_NO_MODULE = "(no module)"


def explanation(
    old: Observation,
    new: Observation,
    changes: Sequence[MetricChange],
    *,
    top: int,
    brief: bool = False,
) -> Document:
    """Return each change with a table that adds up: the `top` largest layers, then the rest.

    `brief`: only name what tells nothing new, at the end.
    """
    title, *facts = _heading(old, new)
    besides = find_besides(changes) if brief else {}
    return [
        Section(title=title, body=tuple(facts), level=2),
        *(
            change_section(change, old, new, earlier=changes[:index], top=top)
            for index, change in enumerate(changes)
            if change.metric not in besides
        ),
        *besides_section(changes, besides, old, new),
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
        reasons = definition_reasons(old.record, new.record)
        yield f"definition changed: {definition_words(reasons)}"
    for name, was, now, note in false_on_a_side(old.record, new.record):
        states = "false" if was is now else f"{shown_value(was, None)} -> {shown_value(now, None)}"
        yield with_note(f"invariant {clean(name)}: {states}", [note])


def _closing(
    old: Observation, new: Observation, changes: Sequence[MetricChange]
) -> Iterator[str | tuple[str, ...]]:
    """Say if nothing changed, or which rows are missing and how to get them."""
    if not old.record.status == new.record.status == "ok":
        yield "a case that failed has no costs to compare"
    elif not changes:
        yield "no cost differs: all FLOPs, all bytes and all counts are equal"
    elif all(None in (change.old, change.new) for change in changes):
        yield "all costs that both sides have are equal"
    case = new.record.case
    select = f'task="{case.task}", method="{case.method}", architecture="{case.architecture}"'
    rank = "" if case.rank is None else f", rank={case.rank}"
    marker = shlex.quote(f"case({select}{rank})")
    command = f"pytest benchmarks -m {marker} --regress-save run.json"
    sides: tuple[tuple[Side, Observation], ...] = (("old", old), ("new", new))
    for side, observation in sides:
        if any(side in change.not_held_by for change in changes):
            held = f"{clean(observation.run_name)} holds no ledger."
            how = "For all rows, measure the case again with its packages installed:"
            yield f"{held} {how}", Code(clean(command, longest=_LONGEST_COMMAND))


def change_section(
    change: MetricChange,
    old: Observation,
    new: Observation,
    *,
    earlier: Sequence[MetricChange] = (),
    top: int,
) -> Section:
    """Return one change with its rows; one that has the rows of an earlier one says so."""
    body: list[str | Table] = list(_remarks(change, old, new))
    twins = [other.metric for other in earlier if other.breakdowns == change.breakdowns]
    if change.breakdowns and twins:
        body.append(f"same rows as {twins[0]}")
    elif has_rows(change):
        for split in change.breakdowns:
            said = _said_once(split, change)
            body += said
            operators = {layer.what for layer in split.layers}
            # What holds for all rows stands in the heading.
            shared = next(iter(operators)) if len(operators) == 1 and split.layers[1:] else ""
            about = f", {_short(shared)}" if shared and split.by == "module" else ""
            headings = (f"by {split.by}{about}", "old", "new", "change")
            plain = {id(layer) for layers in said.values() for layer in layers}
            rows = tuple(_table_rows(split, change, top=top, plain=plain, shared=shared))
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
    if None in (change.old, change.new):
        return f"{change.metric}: {old} -> {new}"
    is_relative = change.relative_change is not None
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


def _said_once(split: Breakdown, change: MetricChange) -> dict[str, list[LayerChange]]:
    """Return what holds for several layers, each as one sentence, with these layers.

    They changed by as many whole runs of the operator that an adapter wraps, or in the same part.
    """
    found: dict[tuple[Any, ...], list[LayerChange]] = {}
    for layer in split.layers:
        parts = _parts(layer)
        if layer.base_runs is not None:
            found.setdefault((layer.what, layer.base_runs, parts), []).append(layer)
        elif len(parts) == 1:
            found.setdefault(("", 0, parts), []).append(layer)
    said = {}
    for (what, runs, parts), layers in found.items():
        count = len({layer.layer for layer in layers})
        if count > 1:
            counted = count_of(count, "layer")
            total = sum(layer.change for layer in layers)
            amount = f"{'+' if total > 0 else '-'}{format_value(abs(total), change.unit)}"
            where = f", in {parts[0]}" if len(parts) == 1 else ""
            sentence = (
                f"{counted}, {amount}: each {_runs(runs)} of its base layer's {clean(what)}{where}"
                if runs
                else f"{counted}, {amount if total else 'no change in all'}: each in {parts[0]}"
            )
            said[sentence] = layers if len(parts) <= 1 else []
    return said


def _parts(layer: LayerChange) -> tuple[str, ...]:
    """Return the modules of a layer that changed; none if that is the layer itself."""
    if [row.module for row in layer.rows] == [layer.layer]:
        return ()
    return tuple(dict.fromkeys(_part_name(row, layer) for row in layer.rows))


def _runs(count: int) -> str:
    return (
        f"costs {count_of(count, 'extra run')}" if count > 0 else f"saves {count_of(-count, 'run')}"
    )


def _table_rows(
    split: Breakdown, change: MetricChange, *, top: int, plain: Collection[int], shared: str
) -> Iterator[Row]:
    """Yield rows. All but the parts add up to the last row, the metric, on either side."""
    moved = [layer for layer in split.layers if layer.change]
    inside = [layer for layer in split.layers if not layer.change]
    for layer in moved[:top]:
        row, *parts = _layer_rows(layer, split, shared=shared)
        yield from (replace(row, notes=()),) if id(layer) in plain else (row, *parts)
    for name, rest in (("more", moved[top:]), ("with changes inside that cancel out", inside)):
        if rest:
            sides = (sum(layer.old for layer in rest), sum(layer.new for layer in rest))
            yield _row(f"{len(rest)} {name}", *sides)
    if split.unmoved:
        yield _row("unchanged", split.unmoved, split.unmoved)
    if any(split.unattributed):
        yield _row("not in the ledger", *split.unattributed)
    yield _row("sum", change.old or 0, change.new or 0)


def _layer_rows(layer: LayerChange, split: Breakdown, *, shared: str) -> Iterator[Row]:
    parts = [_row(_part_name(row, layer), row.old, row.new, is_part=True) for row in layer.rows]
    module = "" if split.by == "operator" else _short(layer.layer) or _NO_MODULE
    operator = "" if module and shared else _short(layer.what)
    name = f"{module} {operator}".strip()
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


_PAPER: Final = "paper_"
_ONLY_NEW: Final = "new"
_ONLY_OLD: Final = "old"


def find_besides(changes: Sequence[MetricChange]) -> dict[str, str]:
    """Return the metrics to name only, each with why: `new`, `old`, or the metric it is like.

    A metric is like an earlier one if it is the same cost at another batch or of the paper's
    counter, and the same layers changed, as far as ledgers split it.
    """
    found: dict[str, str] = {}
    shown: dict[str, list[MetricChange]] = {}
    for change in changes:
        name = change.metric
        if None in (change.old, change.new) and not has_rows(change):
            found[name] = _ONLY_NEW if change.old is None else _ONLY_OLD
            continue
        alike = shown.setdefault(name.removesuffix(BATCH_SUFFIX).removeprefix(_PAPER), [])
        like = next((other for other in alike if _layers(other) == _layers(change)), None)
        if like is None:
            alike.append(change)
        else:
            found[name] = like.metric
    return found


def besides_section(
    changes: Sequence[MetricChange],
    besides: Mapping[str, str],
    old: Observation,
    new: Observation,
) -> Iterator[Section]:
    """Name these metrics with how far they changed."""
    by_reason: dict[str, list[MetricChange]] = {}
    for change in changes:
        if change.metric in besides:
            by_reason.setdefault(besides[change.metric], []).append(change)
    sides = {_ONLY_NEW: new, _ONLY_OLD: old}
    lines = []
    for why, found in by_reason.items():
        of_one_side = sides.get(why)
        title = f"like {why}" if of_one_side is None else f"only in {clean(of_one_side.run_name)}"
        lines.append(f"{title}: {', '.join(map(_shown, found))}")
    if lines:
        yield Section(title=("besides, in full by", Code("--metric NAME")), body=tuple(lines))


def has_rows(change: MetricChange) -> bool:
    """Return whether a ledger splits the change."""
    return any(split.rows or any(split.unattributed) for split in change.breakdowns)


def _layers(change: MetricChange) -> list[frozenset[tuple[str, str, int | None]]]:
    """Return which layers changed, and by how many runs of their base operator."""
    return [
        frozenset((layer.layer, layer.what, layer.base_runs) for layer in split.layers)
        for split in change.breakdowns
    ]


def _shown(change: MetricChange) -> str:
    if change.relative_change is not None and change.new is not None:
        return f"{change.metric} {format_change(change.relative_change)}"
    value = change.old if change.new is None else change.new
    return f"{change.metric} {format_value(value or 0, change.unit)}"
