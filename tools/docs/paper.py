"""Write the tables of docs/paper.md from measurements, or check them.

`page_tables.py` says how; the rest of the page is written by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from statistics import fmean
from typing import Final

from page_tables import ROOT, main_of_tables, table
from paper_rows import (
    CATEGORIES,
    FLOP_FIGURES,
    MEMORY_FIGURES,
    MIB,
    PRINTED_MIB,
    counted,
    measured,
    memory_bytes,
    row,
)

from peft_regress.catalogue.evidence import read_evidence

PAGE: Final = ROOT / "docs" / "paper.md"
PAPER_TABLES: Final = ROOT / "benchmarks" / "paper_tables.json"
PRINTED_TASKS: Final = {
    "imagenet_to_vww": "printed, ImageNet to VWW (new classes)",
    "imagenet_to_c10c_impulse": "printed, ImageNet to CIFAR-10-C, impulse noise",
    "cifar10_to_c10c_brightness": "printed, CIFAR-10 to CIFAR-10-C, brightness",
}
DEFAULT_ARCHITECTURES: Final = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
)


def saving(part: float, whole: float) -> str:
    """Show how much less the part is, in percent; negative if it is more, but zero has no sign."""
    return f"{100 * (1 - part / whole):.1f}".replace("-0.0", "0.0")


def memory() -> str:
    """Return every printed memory figure with the difference to the measured value."""
    rows = []
    for case in dict.fromkeys(figure.row for figure in MEMORY_FIGURES):
        cells = [case.architecture, case.method]
        for category in CATEGORIES:
            size = memory_bytes(measured(case), category) / MIB
            figure = PRINTED_MIB.get((case, category))
            cells.append(
                f"{size:.2f}" if figure is None else f"{figure} ({size - float(figure):+.3f})"
            )
        rows.append(cells)
    return table(["architecture", "method", *CATEGORIES], rows, names=2)


def flops() -> str:
    """Return every printed FLOP figure, and the count of the paper's counter."""
    rows = []
    for figure in FLOP_FIGURES:
        case, ours = figure.row, f"{figure.counted_gflops():.4f}"
        rows.append([case.architecture, case.method, figure.name, f"{figure.printed}", ours])
    header = ["architecture", "method", "phase", "printed", "paper's counter"]
    return table(header, rows, names=3)


def savings() -> str:
    """Return what each method saves in memory and FLOPs, by both counts."""
    rows = []
    for architecture in DEFAULT_ARCHITECTURES:
        whole = row(architecture, "full")
        full, full_count = measured(whole).step, counted(whole)
        for method in ("lora", "dora", "bn_head"):
            case = row(architecture, method)
            step, count = measured(case).step, counted(case)
            pairs = (
                (step.category_sum_bytes, full.category_sum_bytes),
                (step.peak_bytes, full.peak_bytes),
                (count.backward, full_count.backward),
                (step.backward_flops, full.backward_flops),
                (count.forward + count.backward, full_count.forward + full_count.backward),
                (
                    step.forward_flops + step.backward_flops,
                    full.forward_flops + full.backward_flops,
                ),
            )
            rows.append([architecture, method, *(saving(*pair) for pair in pairs)])
    header = [
        "architecture",
        "method",
        "paper's total",
        "peak",
        "backward, paper's counter",
        "backward, correct",
        "forward + backward, paper's counter",
        "forward + backward, correct",
    ]
    return table(header, rows, names=2)


def accuracy() -> str:
    """Return the paper's printed accuracies of mobilenet_v2, then those of the study's tasks."""
    printed = json.loads(PAPER_TABLES.read_text())["accuracy_percent_mobilenet_v2_five_epochs"]
    methods = ("bn_head", "head", "lora-r4", "galore-r4", "full")
    rows = []
    for name, words in PRINTED_TASKS.items():
        found = printed[name]
        cells = (f"{found[one]:.1f}" if one in found else "-" for one in ("none", *methods))
        rows.append([words, *cells])
    for task, studies in read_evidence().studies.items():
        for network, study in sorted(studies.items()):
            means = {name: 100 * fmean(one.final) for name, one in study.methods.items()}
            cells = (f"{means[one]:.1f}" if one in means else "-" for one in methods)
            rows.append([f"here, `{task}`, {network}", f"{100 * study.untrained:.1f}", *cells])
    return table(["task", "untrained", *(f"`{name}`" for name in methods)], rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "memory": memory,
    "flops": flops,
    "savings": savings,
    "accuracy": accuracy,
}

if __name__ == "__main__":
    sys.exit(main_of_tables(PAGE, "paper", TABLES))
