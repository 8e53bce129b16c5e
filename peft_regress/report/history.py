"""The history of cases: the report of `peft-regress history`, and its JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from peft_regress.baselines.history import CaseHistory
from peft_regress.baselines.lines import STATUS, Line, Point
from peft_regress.metrics import format_change, format_value
from peft_regress.report.document import Section
from peft_regress.report.sentences import REPEATED, environment_lines
from peft_regress.report.table import Row, Table
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean, count_of

_BREAK = "not comparable with earlier entries: definition changed"
_DAY = len("2026-01-01")


def history_document(
    histories: Sequence[CaseHistory], *, every_point: bool = False
) -> list[Section]:
    """Return a section for each case, with a table for each metric that changed.

    Unless every point is asked for, metrics that never changed share a line, as do those that came
    with one entry and stayed the same.
    """
    sections = []
    for case in histories:
        still = [line for line in case.lines if not every_point and _first(line) is not None]
        body: list[str | Table] = []
        for line in case.lines:
            if line not in still:
                body += [
                    _counted(line, every_point=every_point),
                    _table(line, every_point=every_point),
                ]
        sections.append(Section(title=clean(case.id), body=(*body, *_still_lines(still)), level=2))
    return sections


def _still_lines(lines: Sequence[Line]) -> Iterator[str]:
    """Yield one line for all metrics that have the same points and never changed."""

    def place(line: Line) -> tuple[bool, int, str]:
        start = _first(line) or 0
        first, last = line.points[start].entry, line.points[-1].entry
        ends = [f"{clean(one.name)} ({clean(one.date[:_DAY])})" for one in (first, last)]
        return start > 0, len(line.points) - start, " to ".join(dict.fromkeys(ends))

    for (is_new, count, entries), found in groupby(sorted(lines, key=place), key=place):
        values = ", ".join(
            f"{clean(line.metric)} {_value(line.points[-1], line)}" for line in found
        )
        what = "new, and the same" if is_new else "the same"
        yield f"{what} at {count_of(count, 'point')}, {entries}: {values}"


def _first(line: Line) -> int | None:
    """Return the first point with a value if it is the same in all later ones; else None."""
    if line.is_still:
        return 0
    points = line.points
    start = next((at for at, point in enumerate(points) if point.value is not None), 0)
    was_absent = all(one.status == "ok" and one.same_as is None for one in points[:start])
    is_still = not any(one.differs or not one.is_comparable for one in points[start + 1 :])
    return start if start and was_absent and points[start].is_comparable and is_still else None


def encode_history(
    histories: Sequence[CaseHistory], *, every_point: bool = False
) -> dict[str, Any]:
    """Return `{schema_version, cases: [{id, lines: [{metric, unit, remark, points}]}]}`."""
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "cases": [
            {
                "id": case.id,
                "lines": [
                    {
                        "metric": line.metric,
                        "unit": line.unit,
                        "points_in_all": len(line.points),
                        "remark": line.remark,
                        "points": [
                            _encode_point(point) for point in _shown(line, every_point=every_point)
                        ],
                    }
                    for line in case.lines
                ],
            }
            for case in histories
        ],
    }


def _encode_point(point: Point) -> dict[str, Any]:
    """Return one point; one of a case that repeats another run names that run."""
    repeated = {} if point.same_as is None else {"repeats": point.same_as}
    return {
        "entry": point.entry.name,
        "date": point.entry.date,
        "role": point.entry.role,
        "status": point.status,
        "value": point.value,
        "relative_change": None if point.change is None else point.change.relative,
        "comparable": point.is_comparable,
        "change_point": point.is_change_point,
        "packages": [
            {"package": name, "old": old, "new": new} for name, (old, new) in point.packages.items()
        ],
        **repeated,
    }


def _shown(line: Line, *, every_point: bool) -> tuple[Point, ...]:
    return line.points if every_point else line.notable()


def _counted(line: Line, *, every_point: bool) -> str:
    left_out = len(line.points) - len(_shown(line, every_point=every_point))
    counted = count_of(len(line.points), "point") + (f", {left_out} not shown" if left_out else "")
    remark = f"; {line.remark}" if line.remark is not None else ""
    return f"{clean(line.metric)}: {counted}{remark}"


def _table(line: Line, *, every_point: bool) -> Table:
    return Table(
        headings=("entry", "date", "value", "change", ""),
        rows=tuple(
            Row(
                cells=(
                    clean(point.entry.name),
                    clean(point.entry.date[:_DAY]),
                    _value(point, line),
                    _change(point, line),
                    "change point" if point.is_change_point else "",
                ),
                notes=tuple(_notes(point)),
            )
            for point in _shown(line, every_point=every_point)
        ),
        numbers=(2,),
    )


def _notes(point: Point) -> Iterator[str]:
    if not point.is_comparable:
        yield _BREAK
    packages = "; ".join(_packages(point))
    if packages:
        yield packages


def _packages(point: Point) -> list[str]:
    """Return 'peft 0.21.2 -> 0.22.0' for each changed package, the likely causes first."""
    sides: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for name, versions in point.packages.items():
        for side, version in zip(sides, versions, strict=True):
            if version is not None:
                side[name] = version
    return environment_lines(*sides)


def _value(point: Point, line: Line) -> str:
    if line.metric == STATUS:
        return clean(point.status)
    if point.same_as is not None:
        return REPEATED
    if point.value is None or point.unit is None:
        return "absent" if point.status == "ok" else clean(point.status.partition(" ")[0])
    return format_value(point.value, point.unit)


def _change(point: Point, line: Line) -> str:
    move = point.change
    if move is None:
        is_late = point is not line.points[0] and point.is_comparable and point.value is not None
        return "first on its machine" if line.kind == "seconds" and is_late else ""
    if move.relative is None:
        return f"from {move.old:g}"
    if line.unit == "fraction":
        return f"{100 * move.relative:+.1f} points"
    if line.kind == "score":
        return f"{move.relative:+.4g}"
    if line.kind == "fingerprint" and point.differs and point.unit is not None:
        pair = (format_value(value, point.unit) for value in (move.old, move.new))
        number = "loss" if point.unit == "nat" else "update"
        return f"{format_change(move.relative)} in one {number}, {' -> '.join(pair)}"
    return format_change(move.relative)
