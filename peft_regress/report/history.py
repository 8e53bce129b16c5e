"""The history of cases as text, Markdown or the JSON that `history --format json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_regress.baselines.series import STATUS
from peft_regress.metrics import format_change, format_value
from peft_regress.report.markdown_syntax import escape_markdown
from peft_regress.report.sentences import environment_lines, wrapped
from peft_regress.runs.schema import SCHEMA_VERSION
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.baselines.history import CaseHistory
    from peft_regress.baselines.series import Line, Point

__all__ = ["encode_history", "history_markdown", "history_text"]

_BREAK = "defined otherwise from here on: not comparable with what came before"
_MOST_PACKAGE_LINES = 3
_DAY = len("2026-01-01")


def history_text(histories: Sequence[CaseHistory], *, every_point: bool = False) -> str:
    """Return a block a case; metrics that never moved share one line, unless all points count."""
    blocks = []
    for case in histories:
        lines = [clean(case.id)]
        still = [line for line in case.lines if line.is_still and not every_point]
        for line in case.lines:
            if line not in still:
                lines += _text_line(line, every_point=every_point)
        for count in sorted({len(line.points) for line in still}):
            same = [line for line in still if len(line.points) == count]
            points = "1 point" if count == 1 else f"{count} points"
            values = ", ".join(
                f"{clean(line.metric)} {_value(line.points[-1], line)}" for line in same
            )
            lines.append(wrapped(f"  the same at {points}: {values}", indent="    "))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def history_markdown(histories: Sequence[CaseHistory], *, every_point: bool = False) -> str:
    """Return the same as a table a case, in GitHub-flavoured Markdown."""
    blocks = []
    for case in histories:
        rows = [
            "| metric | entry | date | value | change | | packages |",
            "| --- | --- | --- | ---: | ---: | --- | --- |",
        ]
        for line in case.lines:
            for point in _shown(line, every_point=every_point):
                entry = point.entry
                notes = "; ".join(_notes(point))
                packages = "; ".join(_packages(point))
                cells = (
                    line.metric, entry.name, entry.date[:_DAY], _value(point, line),
                    _change(point, line), notes, packages,
                )  # fmt: skip
                rows.append(f"| {' | '.join(escape_markdown(clean(cell)) for cell in cells)} |")
        remarks = [
            f"{escape_markdown(clean(line.metric))}: {escape_markdown(line.remark)}"
            for line in case.lines
            if line.remark is not None and not line.is_still
        ]
        blocks += [f"## {escape_markdown(clean(case.id))}", "\n".join(rows), *remarks]
    return "\n\n".join(blocks)


def encode_history(
    histories: Sequence[CaseHistory], *, every_point: bool = False
) -> dict[str, Any]:
    """Return `{schema_version, cases: [{id, lines: [{metric, unit, remark, points}]}]}`."""
    return {
        "schema_version": SCHEMA_VERSION,
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
    return {
        "entry": point.entry.name,
        "date": point.entry.date,
        "role": point.entry.role,
        "status": point.status,
        "value": point.value,
        "relative_change": None if point.move is None else point.move.relative,
        "comparable": point.is_comparable,
        "change_point": point.is_change_point,
        "packages": [
            {"package": name, "old": old, "new": new} for name, (old, new) in point.packages.items()
        ],
    }


def _shown(line: Line, *, every_point: bool) -> tuple[Point, ...]:
    return line.points if every_point else line.notable()


def _text_line(line: Line, *, every_point: bool) -> Iterator[str]:
    points = _shown(line, every_point=every_point)
    left_out = len(line.points) - len(points)
    counted = f"{len(line.points)} points" + (f", {left_out} not shown" if left_out else "")
    remark = f"; {line.remark}" if line.remark is not None else ""
    yield wrapped(f"  {clean(line.metric)}: {counted}{remark}", indent="    ")
    cells = [
        (clean(p.entry.name), clean(p.entry.date[:_DAY]), _value(p, line), _change(p, line))
        for p in points
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for point, (name, date, value, change) in zip(points, cells, strict=True):
        if not point.is_comparable:
            yield f"    -- {_BREAK}"
        row = f"    {name:<{widths[0]}}  {date:<{widths[1]}}  {value:>{widths[2]}}  {change}"
        mark = "  change point" if point.is_change_point else ""
        yield (row.rstrip() if not mark else f"{row:<{sum(widths) + 10}}{mark}")
        packages = "; ".join(_packages(point))
        if packages:
            yield wrapped(f"      {packages}", indent="      ", most_lines=_MOST_PACKAGE_LINES)


def _notes(point: Point) -> Iterator[str]:
    if not point.is_comparable:
        yield _BREAK
    if point.is_change_point:
        yield "change point"


def _packages(point: Point) -> list[str]:
    """Return 'peft 0.21.2 -> 0.22.0' for each package that differs, the likely causes first."""
    sides: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for name, versions in point.packages.items():
        for side, version in zip(sides, versions, strict=True):
            if version is not None:
                side[name] = version
    return environment_lines(*sides)


def _value(point: Point, line: Line) -> str:
    if line.metric == STATUS:
        return clean(point.status)
    if point.value is None or point.unit is None:
        return "absent" if point.status == "ok" else clean(point.status.partition(" ")[0])
    return format_value(point.value, point.unit)


def _change(point: Point, line: Line) -> str:
    move = point.move
    if move is None:
        is_late = point is not line.points[0] and point.is_comparable and point.value is not None
        return "the first on its machine" if line.kind == "seconds" and is_late else ""
    if move.relative is None:
        return f"from {move.old:g}"
    if line.unit == "fraction":
        return f"{100 * move.relative:+.1f} points"
    if line.kind == "fingerprint" and point.moved and point.unit is not None:
        pair = (format_value(value, point.unit) for value in (move.old, move.new))
        return f"{format_change(move.relative)} in one loss, {' -> '.join(pair)}"
    return format_change(move.relative)
