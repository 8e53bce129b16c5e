"""What moved in a history beyond its bound: the report of `peft-regress history`, and its JSON."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from peft_regress.baselines.history import Entry, Move, Moves
from peft_regress.gate.changes import value_of
from peft_regress.metrics import Metric, format_value
from peft_regress.report import sentences
from peft_regress.report.document import CaseId, Line, Section
from peft_regress.report.layout import Row, Table
from peft_regress.report.verdict.to_json import encode_sides, fields
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean, count_of

_MOST_NAME_LINES = 2


def history_document(moves: Moves, *, with_values: bool = False) -> list[Section]:
    """Return a section for each entry in which something moved: what, how far, in which cases."""
    steps: dict[tuple[int, int], list[Line]] = defaultdict(list)
    anew: dict[int, list[str]] = defaultdict(list)
    for case, at in moves.redefined:
        anew[at].append(case)
    for at, cases in anew.items():
        counted = count_of(len(cases), "case")
        words = f"defines {counted} anew: nothing before can be compared"
        steps[at, -1].append(_line(words, cases))
    by_step: dict[tuple[int, int], list[Move]] = defaultdict(list)
    for move in moves.found:
        by_step[move.entry, move.before].append(move)
    for pair, found in by_step.items():
        steps[pair] += _groups(found)
    sections = [
        Section(title=_heading(moves.entries, *pair), body=tuple(lines), level=2)
        for pair, lines in sorted(steps.items())
    ]
    return [_summary(moves), *sections, *(_values(moves) if with_values else ())]


def encode_history(moves: Moves) -> dict[str, Any]:
    """Return `{schema_version, moves: [{case, metric, before, entry, old, ...}], redefined}`."""
    names = [entry.name for entry in moves.entries]
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "moves": [
            {
                **fields(move, "case", "way"),
                "metric": move.reason.name,
                "unit": None if move.reason.spec is None else move.reason.spec.unit,
                "before": names[move.before],
                "entry": names[move.entry],
                **fields(move.reason, "old", "new", "relative_change"),
                "packages": encode_sides(
                    "package",
                    changed_packages(
                        *(moves.entries[at].run.environment for at in (move.before, move.entry))
                    ),
                ),
            }
            for move in moves.found
        ],
        "redefined": [{"case": case, "entry": names[at]} for case, at in moves.redefined],
    }


def _summary(moves: Moves) -> Section:
    entries = moves.entries
    ends = [_dated(one) for one in (entries[0], entries[-1])]
    cases = len({move.case for move in moves.found})
    moved = f"{cases} of {count_of(len(moves.cases), 'case')} moved beyond a bound"
    if moves.found:
        moved += f", last in {clean(entries[max(move.entry for move in moves.found)].name)}"
    counted = count_of(len(entries), "entry", "entries")
    return Section(title=f"{counted}, {' to '.join(dict.fromkeys(ends))}", body=(moved,))


def _dated(entry: Entry) -> str:
    return f"{clean(entry.name)} ({entry.day})"


def _heading(entries: Sequence[Entry], at: int, before: int) -> str:
    if before < 0:
        return _dated(entries[at])
    packages = sentences.version_changes(*(entries[one].run.environment for one in (before, at)))
    changed = "; ".join(packages) or "no package changed"
    return f"{_dated(entries[at])}, compared with {clean(entries[before].name)}: {changed}"


def _groups(moves: Sequence[Move]) -> Iterator[Line]:
    """Yield what moved the same way in the same cases, what got worse in most cases first."""
    by_metric: dict[tuple[Any, ...], list[Move]] = defaultdict(list)
    for move in moves:
        # States are equal in all cases of a group, numbers need not be.
        state = (move.reason.old, move.reason.new) if move.reason.spec is None else ()
        by_metric[move.reason.name, move.way, *state].append(move)
    groups: dict[tuple[str, frozenset[str]], list[str]] = defaultdict(list)
    for found in by_metric.values():
        cases = frozenset(move.case for move in found)
        groups[found[0].way, cases].append(_range(found))
    for way, cases in sorted(groups, key=lambda one: (one[0] != "worse", -len(one[1]))):
        where = next(iter(cases)) if len(cases) == 1 else f"{len(cases)} cases"
        words = f"{way} in {clean(where)}: {', '.join(groups[way, cases])}"
        yield _line(words, sorted(cases) if len(cases) > 1 else [])


def _line(words: str, cases: Sequence[str]) -> Line:
    return Line(words, _MOST_NAME_LINES, tuple(CaseId(clean(name), name) for name in cases))


def _range(moves: Sequence[Move]) -> str:
    """Return how far a metric moved in some cases; in one case, from where to where."""
    reason = moves[0].reason
    changes = [move.reason.relative_change for move in moves]
    known = sorted((one for one in changes if one is not None), key=abs)
    ends = dict.fromkeys(sentences.shown_change(one, reason.spec) for one in known[:1] + known[-1:])
    others = {_without_ratio(move) for move in moves if move.reason.relative_change is None}
    shown = " to ".join([*ends, *sorted(others)])
    pair = f" ({_sides(moves[0])})" if len(moves) == 1 and known else ""
    return f"{clean(reason.name)} {shown}{pair}"


def _without_ratio(move: Move) -> str:
    if move.reason.spec is None:
        return _sides(move)
    return "new" if move.reason.old is None else "gone" if move.reason.new is None else "from 0"


def _sides(move: Move) -> str:
    reason = move.reason
    none = "absent" if reason.spec else "unchecked"
    return sentences.sides(reason.old, reason.new, reason.spec, none=none)


def _values(moves: Moves) -> Iterator[Section]:
    """Yield every value of the metrics of each case, where it differs from the one before."""
    for case, records in moves.cases.items():
        rows = []
        for name in moves.metrics[case]:
            before: Metric | None = None
            for at, record in records.items():
                metric, entry = record.metrics.get(name), moves.entries[at]
                if metric is None or metric == before:
                    continue
                value, spec = value_of(metric), metric.spec
                old = value if before is None else value_of(before)
                change = "" if before is None else sentences.change_words(old, value, spec)
                shown = format_value(value, metric.unit)
                rows.append(Row.of(clean(name), clean(entry.name), entry.day, shown, change))
                before = metric
        headings = ("metric", "entry", "date", "value", "change")
        table = Table(headings=headings, rows=tuple(rows), numbers=(3, 4))
        if rows:
            yield Section(title=f"all values of {clean(case)}", body=(table,), level=2)
