"""Where a change in cost comes from: the report of `peft-regress explain`."""

from collections.abc import Iterator, Sequence

from peft_regress.gate import attribution
from peft_regress.gate.inputs import definition_reasons
from peft_regress.gate.verdicts import Observation
from peft_regress.metrics import format_change, format_value
from peft_regress.report import sentences
from peft_regress.report.document import Document, Section
from peft_regress.report.layout import Row, Table
from peft_regress.text import clean, count_of

_LONGEST_NAME = 80
_UNITS = {"flop": " FLOP", "byte": " bytes"}
_PRESENCE = {"old": " (gone)", "new": " (new)", None: ""}


def explanation(
    old: Observation, new: Observation, changes: Sequence[attribution.MetricChange], *, top: int
) -> Document:
    """Return each change with a table that adds up: the `top` largest layers, then the rest."""
    title, *facts = _heading(old, new)
    sections = [
        _change_section(change, old, new, earlier=changes[:index], top=top)
        for index, change in enumerate(changes)
    ]
    last = ""
    if not old.record.status == new.record.status == "ok":
        last = "a case that failed has no costs to compare"
    elif not changes:
        last = "no cost differs: all FLOPs, all bytes and all counts are equal"
    elif all(None in (change.old, change.new) for change in changes):
        last = "all costs that both sides have are equal"
    closing = [Section(title=last)] if last else []
    return [Section(title=title, body=tuple(facts), level=2), *sections, *closing]


def _heading(old: Observation, new: Observation) -> Iterator[str]:
    yield f"{clean(new.record.case.id)}: {clean(old.run_name)} -> {clean(new.run_name)}"
    moved = sentences.version_changes(old.environment, new.environment)
    yield f"environment: {'; '.join(moved) or 'the same packages on both sides'}"
    before, after = old.record.status_text, new.record.status_text
    if before != after:
        yield f"status: {clean(before)} -> {clean(after)}"
    elif old.record.status != "ok":
        yield f"status: {clean(before)} on both sides"
    if old.record.definition != new.record.definition:
        reasons = definition_reasons(old.record, new.record)
        yield f"definition changed: {sentences.definition_words(reasons)}"
    for name, was, now, note in sentences.false_on_a_side(old.record, new.record):
        states = "false" if was is now else sentences.sides(was, now)
        yield sentences.with_note(f"invariant {clean(name)}: {states}", [note])


def _change_section(
    change: attribution.MetricChange,
    old: Observation,
    new: Observation,
    *,
    earlier: Sequence[attribution.MetricChange],
    top: int,
) -> Section:
    """Return one change with its rows; one that has the rows of an earlier one says so."""
    body: list[str | Table] = list(_remarks(change, old, new))
    twins = [other.metric for other in earlier if other.breakdowns == change.breakdowns]
    if change.breakdowns and twins:
        body.append(f"same rows as {twins[0]}")
    else:
        body += [
            Table(
                headings=(f"by {split.by}", "old", "new", "change"),
                rows=tuple(_table_rows(split, change, top=top)),
                numbers=(1, 2, 3),
            )
            for split in change.breakdowns
            if split.rows or any(split.unattributed)
        ]
    return Section(title=_title(change), body=tuple(body), level=3)


def _title(change: attribution.MetricChange) -> str:
    def show(value: float | None) -> str:
        return "absent" if value is None else format_value(value, change.unit)

    old, new = show(change.old), show(change.new)
    if old == new:
        # They are equal only when rounded.
        old, new = f"{change.old:,}", f"{change.new:,}"
    if None in (change.old, change.new):
        return f"{change.metric}: {old} -> {new}"
    ratio = change.relative_change
    relative = "" if ratio is None else f", {format_change(ratio)}"
    moved = f"{change.change:+,}{_UNITS.get(change.unit, '')}"
    return f"{change.metric}: {old} -> {new}, {moved}{relative}"


def _remarks(change: attribution.MetricChange, old: Observation, new: Observation) -> Iterator[str]:
    if change.peak_phases is not None:
        before, after = map(clean, change.peak_phases)
        moved = f" ({before} before)" if before != after else ""
        yield f"the peak is in the {after} phase{moved}"
    if change.unit == "count":
        yield "a count; ledgers do not split counts"
    names = {"old": clean(old.run_name), "new": clean(new.run_name)}
    for side in change.not_held_by:
        yield f"not split: the ledger of {names[side]} has no rows of this metric"
    for split in change.breakdowns:
        for name, missing in zip(names.values(), split.unattributed, strict=True):
            if missing:
                yield f"the ledger of {name} does not add up by {split.by}: {missing:+,} is left"


def _table_rows(
    split: attribution.Breakdown, change: attribution.MetricChange, *, top: int
) -> Iterator[Row]:
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


def _layer_rows(layer: attribution.LayerChange, split: attribution.Breakdown) -> Iterator[Row]:
    module = "" if split.by == "operator" else _short(layer.layer) or "(no module)"
    name = f"{module} {_short(layer.what)}".strip()
    notes: tuple[str, ...] = ()
    if layer.base_runs is not None:
        runs = count_of(abs(layer.base_runs), "extra run" if layer.base_runs > 0 else "run")
        verb = "costs" if layer.base_runs > 0 else "saves"
        notes = (f"{verb} {runs} of {clean(layer.base)}'s {clean(layer.what)}",)
    is_alone = [row.module for row in layer.rows] == [layer.layer]
    presence = _PRESENCE[layer.rows[0].only_in] if is_alone else ""
    yield _row(f"{name}{presence}", layer.old, layer.new, notes=notes)
    for row in () if is_alone else layer.rows:
        part = _short(row.module.removeprefix(layer.layer)) or "itself"
        yield _row(f"{part}{_PRESENCE[row.only_in]}", row.old, row.new, is_part=True)


def _row(
    name: str, old: float, new: float, *, notes: tuple[str, ...] = (), is_part: bool = False
) -> Row:
    change = f"{new - old:+,}" if new != old else "0"
    return Row(cells=(name, f"{old:,}", f"{new:,}", change), notes=notes, is_part=is_part)


def _short(name: str) -> str:
    return clean(name, longest=_LONGEST_NAME)
