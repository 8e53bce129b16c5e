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
from scipy.stats import t as student

from peft_regress.catalogue.evidence import read_evidence

PAGE: Final = ROOT / "docs" / "evidence.md"
TASKS: Final = ("unseen", "shift")


def half_interval(points: Sequence[float]) -> float:
    """Return half of the 95 % interval of a mean (Student's t)."""
    count = len(points)
    return float(student.ppf(0.975, count - 1)) * statistics.stdev(points) / count**0.5


def percent(accuracies: Sequence[float]) -> list[float]:
    """Return accuracies in percent."""
    return [100 * each for each in accuracies]


def differences(scores: Mapping[str, Sequence[float]], method: str) -> list[float]:
    """Return by how many points each seed is above full fine-tuning."""
    pairs = zip(percent(scores[method]), percent(scores["full"]), strict=True)
    return [one - full for one, full in pairs]


def cell(scores: Mapping[str, Sequence[float]], method: str) -> str:
    """Return a method's mean, with how far it is above full fine-tuning and the interval."""
    if method not in scores:
        return "-"
    mean = f"{statistics.fmean(percent(scores[method])):.1f}"
    if method == "full":
        return mean
    points = differences(scores, method)
    return f"{mean} ({statistics.fmean(points):+.1f} ± {half_interval(points):.1f})"


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
        rows.append(["source model", *(f"{100 * zero_shot[one]:.1f}" for one in networks)])
    methods = sorted({name for one in found.values() for name in one}, key=order)
    rows += [[f"`{name}`", *(cell(found[one], name) for one in networks)] for name in methods]
    return table(["method", *networks], rows)


def noise() -> str:
    """Return how far seeds spread, and what pairing them gains: medians over methods."""
    rows = []
    for task in TASKS:
        spreads, paired, unpaired = [], [], []
        for scores in read_evidence().scores[task].values():
            for method in scores.keys() - {"full"}:
                alone = [statistics.stdev(percent(scores[name])) for name in (method, "full")]
                spreads.append(alone[0])
                paired.append(half_interval(differences(scores, method)))
                count = len(scores[method])
                both = (sum(each**2 for each in alone) / count) ** 0.5
                unpaired.append(float(student.ppf(0.975, 2 * count - 2)) * both)
        medians = [f"{statistics.median(each):.1f}" for each in (spreads, paired, unpaired)]
        rows.append([f"`{task}`", *medians, f"{max(paired):.1f}"])
    header = ["task", "standard deviation over seeds", "half interval, paired", "unpaired"]
    return table([*header, "paired, at most"], rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "noise": noise,
    "unseen": lambda: accuracy("unseen"),
    "shift": lambda: accuracy("shift"),
}

if __name__ == "__main__":
    chosen = option_parser(__doc__, TABLES).parse_args()
    sys.exit(finish(PAGE, "evidence", TABLES, chosen))
