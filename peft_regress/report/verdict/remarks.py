"""What a comparison tells beside its verdicts: fronts, looser bounds, what is not judged."""

from __future__ import annotations

from collections.abc import Collection

from peft_regress.gate.comparison import Comparison
from peft_regress.gate.fronts import LostFront
from peft_regress.gate.verdicts import Remark
from peft_regress.report.sentences import remark_line, with_note
from peft_regress.text import clean, count_of


def remarks(comparison: Comparison) -> dict[str, list[str]]:
    """Return what readers should know, in words, with the cases it is about.

    What fails a strict run comes first. A number that differs from case to case is left out.
    """
    found: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    for lost in comparison.fronts:
        found.setdefault(front_line(lost), []).append(lost.case)
    strict = [one for one in _all(comparison) if one[1].fails_strictly]
    others = [one for one in _all(comparison) if not one[1].fails_strictly]
    for case, remark in (*strict, *others):
        what = _in_many_cases(remark)
        found.setdefault(what, []).append(case)
        notes.setdefault(what, []).append(remark.text if remark.kind == "new metric" else "")
    return {with_note(what, notes.get(what, ())): cases for what, cases in found.items()}


def front_line(lost: LostFront) -> str:
    """Return which front a case left, and which case took its place."""
    return f"beaten by {clean(lost.beaten_by)}: off the front of accuracy against {lost.cost}"


def strict_lines(comparison: Comparison, cases: Collection[str]) -> list[str]:
    """Return what fails only a strict run in some cases, in words."""
    failing = [
        *(front_line(lost) for lost in comparison.fronts if lost.case in cases),
        *(
            remark_line(one)
            for case, one in _all(comparison)
            if case in cases and one.fails_strictly
        ),
    ]
    return list(dict.fromkeys(failing))


def remarks_lines(comparison: Comparison) -> list[str]:
    """Return each remark with the number of its cases."""
    return [
        f"{what} in {count_of(len(cases), 'case')}" for what, cases in remarks(comparison).items()
    ]


def _all(comparison: Comparison) -> list[tuple[str, Remark]]:
    """Return the remarks by case, but those on how trainings were judged: they stand elsewhere."""
    return [
        (case.id, remark)
        for case in comparison.cases
        for remark in case.remarks
        if remark.subject != "training"
    ]


def _in_many_cases(remark: Remark) -> str:
    subject = clean(remark.subject)
    if remark.kind == "new metric":
        state = "new and false" if remark.new is False else "new"
        return f"{subject} is {state}: the baseline could not know it"
    if remark.kind == "not judged":
        return f"{subject} is not judged: {clean(remark.text)}"
    if remark.kind == "within own bound":
        return f"{subject} changed within a bound of its own ({clean(remark.text)})"
    return remark_line(remark)
