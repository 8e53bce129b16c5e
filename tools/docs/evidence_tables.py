"""Write the tables of docs/evidence.md on the accuracy of methods that have learned.

`tools/studies/accuracy_study.py` makes evidence.json; `page_tables.py` says how to renew them.
"""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from page_tables import ROOT, main_of_tables, table

from peft_regress.catalogue.evidence import FULL, Study, read_evidence
from peft_regress.choosing.ranking import difference

PAGE: Final = ROOT / "docs" / "evidence.md"


def percent(score: float) -> str:
    """Return a share in percent."""
    return f"{100 * score:.1f}"


def cell(scores: Mapping[str, Sequence[float]], method: str) -> str:
    """Return the mean of full fine-tuning, in percent; how far above that another method is."""
    if not scores.get(method):
        return "-"
    if method == FULL:
        return percent(statistics.fmean(scores[method]))
    above = difference(scores[method], scores[FULL])
    return f"{100 * above.mean:+.1f}±{100 * above.half:.1f}"


def order(method: str) -> tuple[int, int]:
    """Sort full first, then methods without a rank, then by method and rank."""
    names = ("full", "head", "bn_head", "lora", "dora", "galore")
    name, _, rank = method.partition("-r")
    return names.index(name), int(rank or 0)


def columns(task: str) -> dict[str, Study]:
    """Return the studies of a task, by network."""
    return dict(sorted(read_evidence().studies.get(task, {}).items()))


def scores_of(study: Study, horizon: str) -> dict[str, Sequence[float]]:
    """Return the scores of each method at a horizon."""
    return {name: getattr(one, horizon) for name, one in study.methods.items()}


def accuracy(task: str, horizon: str) -> str:
    """Return accuracies: a row for each method, a column for each network."""
    studies = {
        name: one for name, one in columns(task).items() if any(scores_of(one, horizon).values())
    }
    methods = sorted({name for one in studies.values() for name in one.methods}, key=order)
    rows = [["steps", *(f"{steps_of(one, horizon):,}" for one in studies.values())]]
    if horizon == "final":
        rows += [
            ["guessing", *(percent(one.chance or 0) for one in studies.values())],
            ["untrained", *(percent(one.untrained) for one in studies.values())],
        ]
    scores = [scores_of(one, horizon) for one in studies.values()]
    rows += [
        [f"`{name}`", *(cell(one, name) for one in scores)]
        for name in methods
        if any(one.get(name) for one in scores)
    ]
    return table(["method", *studies], rows)


def steps_of(study: Study, horizon: str) -> int:
    """Return after how many steps a horizon is."""
    return {"final": study.steps, "longer": 3 * study.steps}[horizon]


def learning() -> str:
    """Return full fine-tuning's accuracy by steps: how long a study trained, and what that took."""
    rows = []
    for task, studies in sorted(read_evidence().studies.items()):
        for network, study in sorted(studies.items()):
            tried = "/".join(map(str, study.curve))
            curve = "/".join(f"{100 * one:.1f}" for one in study.curve.values())
            hours = f"{study.hours:.1f}"
            rows.append([f"`{task}`", network, tried, curve, str(study.steps), hours])
    return table(["task", "network", "tried", "full, percent", "steps", "hours"], rows, names=4)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "learning": learning,
    "unseen-final": functools.partial(accuracy, "unseen", "final"),
    "unseen-longer": functools.partial(accuracy, "unseen", "longer"),
    "shift-final": functools.partial(accuracy, "shift", "final"),
}

if __name__ == "__main__":
    sys.exit(main_of_tables(PAGE, "evidence", TABLES))
