"""Write the tables of docs/evidence.md on what the tasks can tell apart.

    python tools/docs/evidence_tables.py --write    renew them from evidence.json
    python tools/docs/evidence_tables.py --check    exit 1 if they are out of date

`tools/studies/task_study.py` makes evidence.json.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from page_tables import ROOT, finish, option_parser, table

from peft_regress.catalogue.evidence import read_evidence
from peft_regress.choosing.ranking import difference

PAGE: Final = ROOT / "docs" / "evidence.md"
TASKS: Final = ("unseen", "shift")
LEFT_OUT: Final = ("-r2", "-r8")
"""Ranks that evidence.json has and the page has no room for."""

Scores = Mapping[str, Sequence[float]]
"""By method: an accuracy for each seed."""


def cell(scores: Scores, method: str) -> str:
    """Return the mean of full fine-tuning, in percent; how far above that another method is."""
    if method not in scores:
        return "-"
    if method == "full":
        return f"{100 * statistics.fmean(scores[method]):.1f} %"
    above = difference(scores[method], scores["full"])
    return f"{100 * above.mean:+.1f} ± {100 * above.margin:.1f}"


def order(method: str) -> tuple[int, int]:
    """Sort full first, then methods without a rank, then by method and rank."""
    names = ("full", "head", "bn_head", "lora", "dora", "galore")
    name, _, rank = method.partition("-r")
    return names.index(name), int(rank or 0)


def accuracy(task: str) -> str:
    """Return the accuracies of a task: a row for each method, a column for each network."""
    found, zero_shot = read_evidence().scores[task], read_evidence().zero_shot.get(task, {})
    networks = sorted(found)
    rows = []
    if zero_shot:
        rows.append(["source model", *(f"{100 * zero_shot[one]:.1f} %" for one in networks)])
    trained = {name for one in found.values() for name in one}
    methods = sorted((name for name in trained if not name.endswith(LEFT_OUT)), key=order)
    rows += [[f"`{name}`", *(cell(found[one], name) for one in networks)] for name in methods]
    return table(["method", *networks], rows)


def severities() -> str:
    """Return the accuracies under corruptions: a row for each network and second severity."""
    evidence, rows = read_evidence(), []
    tasks = ("shift-1", "shift-3", "shift-5")
    methods = ("full", "head", "bn_head", "lora-r4")
    for network in sorted(evidence.scores[tasks[0]]):
        for task in tasks:
            source = f"{100 * evidence.zero_shot[task][network]:.1f} %"
            scores = evidence.scores[task][network]
            rows.append([network, task, source, *(cell(scores, name) for name in methods)])
    return table(["network", "task", "source model", *(f"`{name}`" for name in methods)], rows)


def noise() -> str:
    """Return how far seeds spread, and what that leaves of a difference: medians over methods."""
    rows = []
    for task in (*TASKS, "animals"):
        pairs = [
            (scores[method], difference(scores[method], scores["full"]).margin)
            for scores in read_evidence().scores[task].values()
            for method in scores.keys() - {"full"}
        ]
        spread = statistics.median(statistics.stdev(accuracies) for accuracies, _ in pairs)
        margins = [margin for _, margin in pairs]
        points = [spread, statistics.median(margins), max(margins)]
        rows.append([f"`{task}`", *(f"{100 * each:.1f}" for each in points)])
    header = ["task", "standard deviation over seeds", "half of an interval", "at most"]
    return table(header, rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "unseen": lambda: accuracy("unseen"),
    "shift": lambda: accuracy("shift"),
    "severities": severities,
    "noise": noise,
}

if __name__ == "__main__":
    chosen = option_parser(__doc__, TABLES).parse_args()
    sys.exit(finish(PAGE, "evidence", TABLES, chosen))
