"""Write the tables of docs/evidence.md on the accuracy of methods that have learned.

`tools/studies/accuracy_study.py` makes evidence.json; `page_tables.py` says how to renew them.
"""

import functools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from page_tables import ROOT, main_of_tables, table

from peft_regress.catalogue.evidence import FULL, read_evidence
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


def accuracy(task: str, horizon: str) -> str:
    """Return accuracies: a row for each method, a column for each network."""
    studies, scores = {}, {}
    for network, study in sorted(read_evidence().studies[task].items()):
        of = {name: getattr(one, horizon) for name, one in study.methods.items()}
        if any(of.values()):
            studies[network], scores[network] = study, of
    steps = (f"{one.steps * (3 if horizon == 'longer' else 1):,}" for one in studies.values())
    rows = [["steps", *steps]]
    if horizon == "final":
        rows += [
            ["guessing", *(percent(one.chance or 0) for one in studies.values())],
            ["untrained", *(percent(one.untrained) for one in studies.values())],
        ]
    learned = {name for of in scores.values() for name, found in of.items() if found}
    rows += [
        [f"`{name}`", *(cell(of, name) for of in scores.values())]
        for name in sorted(learned, key=order)
    ]
    return table(["method", *studies], rows)


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
