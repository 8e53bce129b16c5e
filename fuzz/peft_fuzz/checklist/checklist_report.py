"""Show a filled checklist: as text, as Markdown for a pull request, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from peft_fuzz.checklist.checklist import Checklist
from peft_fuzz.checklist.judge import About, Detail, Row, Verdict, grouped
from peft_fuzz.checklist.situations import find_method
from peft_regress.report.document import Code, Line, Section, Words
from peft_regress.report.layout import Row as TableRow
from peft_regress.report.layout import Style, Table
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean, count_of

_MOST_PLACES: Final = 3
_TITLES: Final[dict[About, str]] = {
    "outputs": "outputs of a checkpoint of the base, unmerged, off, merged, off when unmerged, and "
    "saved and loaded again: the largest, difference",
    "checkpoint": "tensors in checkpoints",
    "configuration": "configuration",
    "training": "losses of a training from a fresh adapter: the last, relative difference",
}
_COUNTED: Final[tuple[Verdict, ...]] = ("ok", "out of bounds", "not measured")
_OUTCOMES: Final[dict[int, tuple[str, Style]]] = {
    0: ("no measured row is out of bounds", "good"),
    1: ("out of bounds", "bad"),
    3: ("incomplete: not everything was measured", "open"),
}


def checklist_document(checklist: Checklist) -> list[Section]:
    """Return the outcome, the boxes, a table for each part of the protocol, and the details."""
    rows = checklist.judged.rows
    details = {
        f"{verdict}:": [one for row in rows if row.verdict == verdict for one in row.details]
        for verdict in _COUNTED[1:]
    }
    details["the base cannot do:"] = [*checklist.judged.unsupported]
    return [
        _heading(checklist),
        Section(title="boxes of the protocol:", body=tuple(boxes(checklist)), level=3),
        *(_table_section(about, rows) for about in _TITLES if any(r.about == about for r in rows)),
        *(_listed(title, found) for title, found in details.items() if found),
    ]


def _heading(checklist: Checklist) -> Section:
    asked = " ".join(map(clean, checklist.requirements))
    old, new = (packages["peft"] for packages in checklist.packages)
    changes = "; ".join(
        clean(f"{name} {before or 'absent'} -> {after or 'absent'}")
        for name, (before, after) in checklist.changed.items()
    )
    verdicts = Counter(row.verdict for row in checklist.judged.rows)
    said = ", ".join(f"{verdicts[one]} {one}" for one in _COUNTED if verdicts[one])
    outcome, style = _OUTCOMES[checklist.judged.exit_code]
    return Section(
        title=f"checklist {checklist.method}: {outcome} ({said})",
        body=(
            f"base: peft {clean(old)} ({clean(checklist.base)})",
            f"branch: peft {clean(new)} ({asked})",
            f"environment: {changes or 'the same versions on both sides'}",
            checklist.scope,
            *(f"note: {clean(remark, longest=400)}" for remark in checklist.remarks),
        ),
        level=2,
        style=style,
    )


def boxes(checklist: Checklist) -> Iterator[Line]:
    """Yield the protocol's boxes; ticked is only what was measured and is within bounds."""
    name = find_method(checklist.method).config.removesuffix("Config").lower()
    regression = f"pytest tests/regression/test_state_dict.py --regression -k {name}"
    # What each box says, and the rows that it stands for.
    protocol: dict[Words, tuple[About, ...]] = {
        ("unit tests of the method: not run here;", Code(f"pytest tests -k {name}")): (),
        ("regression tests of stored checkpoints: not run here;", Code(regression)): (),
        "state dict: checkpoints of the base load in the branch and give the same outputs": (
            "checkpoint",
            "outputs",
        ),
        "configuration: defaults mean what they did, none is gone": ("configuration",),
        (
            "benchmark: MetaMathQA on base and branch needs CUDA and is not done; in",
            Code("method_comparison/MetaMathQA"),
            Code(f"python run.py -v experiments/{name}/EXPERIMENT"),
        ): (),
        "benchmark, what a CPU can show of it: losses of short trainings": ("training",),
        ("benchmark, FLOPs and bytes: not done here;", Code("peft-regress upgrade")): (),
        "script, on this CPU and these networks: outputs unmerged and merged in all number types": (
            "outputs",
        ),
        "script, on CUDA with a real or tiny-random model: not done": (),
        "report: all results are in the pull request: yours to do": (),
    }
    for words, about in protocol.items():
        verdicts = {row.verdict for row in checklist.judged.rows if row.about in about}
        yield Line(words, is_ticked=verdicts == {"ok"})


def _table_section(about: About, rows: Sequence[Row]) -> Section:
    shown = (
        (
            row.what,
            "" if row.configurations is None else str(row.configurations),
            *(row.base, row.branch, row.difference, row.bound, row.verdict),
        )
        for row in rows
        if row.about == about
    )
    table = Table(
        headings=("what", "configs", "base", "branch", "difference", "bound", "verdict"),
        rows=tuple(
            TableRow(cells=tuple(clean(cell, longest=300) for cell in cells)) for cells in shown
        ),
        numbers=(1, 2, 3),
    )
    return Section(title=f"{_TITLES[about]}:", body=(table,), level=3)


def _listed(title: str, found: Sequence[Detail]) -> Section:
    problems = grouped(found, lambda detail: detail.said)
    lines = (
        Line(clean(f"{said}: {_places(details)}", longest=400), most_lines=4)
        for said, details in problems.items()
    )
    return Section(title=title, body=tuple(lines), level=3)


def _places(details: Sequence[Detail]) -> str:
    places = list(dict.fromkeys(detail.where for detail in details))
    more = len(places) - _MOST_PLACES
    shown = "; ".join(places[:_MOST_PLACES])
    return f"{shown}; {count_of(more, 'more place')}" if more > 0 else shown


def encode_checklist(checklist: Checklist) -> dict[str, Any]:
    """Return `{schema_version, exit_code, method, requirements, base, packages, rows, ...}`."""
    judged = checklist.judged
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "exit_code": judged.exit_code,
        **{name: value for name, value in vars(checklist).items() if name != "judged"},
        "rows": [
            {**vars(row), "details": [one._asdict() for one in row.details]} for row in judged.rows
        ],
        "unsupported": [one._asdict() for one in judged.unsupported],
    }
