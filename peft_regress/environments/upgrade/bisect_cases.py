"""Choose the cases of a bisection, and whether they must train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from peft_regress.cases import Case
from peft_regress.catalogue.matrix import matrix_cases, parse_case_id, select_cases
from peft_regress.errors import UnknownNameError
from peft_regress.gate.attribution import COSTS
from peft_regress.metrics import INVARIANTS, METRICS

_PATTERN_CHARACTERS: Final = frozenset("*?[")


def chosen_cases(text: str | None, *, matrix: str) -> list[Case]:
    """Return the case of an id, the cases that match a glob, or one per method and architecture."""
    if text is None:
        return _one_each(matrix_cases(matrix))
    if _PATTERN_CHARACTERS & set(text):
        return select_cases(text, matrix=matrix)
    return [parse_case_id(text)]


def _one_each(cases: Iterable[Case]) -> list[Case]:
    """Return one case per method and architecture: the first task, the middle rank."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.method, case.architecture), []).append(case)
    chosen = []
    for group in groups.values():
        of_task = [case for case in group if case.task == group[0].task]
        chosen.append(of_task[len(of_task) // 2])
    return chosen


def check_metric(metric: str | None) -> None:
    """Raise `UnknownNameError` for a name that is no metric, no invariant and not `status`."""
    if metric is not None and metric not in METRICS and metric not in {*INVARIANTS, "status"}:
        kind = "metric or invariant"
        raise UnknownNameError(kind, metric, [*METRICS, *INVARIANTS, "status"])


def evidence_for(metric: str | None) -> tuple[bool, ...]:
    """Return whether to train, the cheapest way first."""
    if metric in {None, "status"}:
        # A case may fail after its first step.
        return (False, True)
    return (False,) if metric in COSTS else (True,)
