"""Write the tables of docs/paper.md from measurements, or check them.

`page_tables.py` says how; the rest of the page is written by hand.
"""

import itertools
import sys
from collections.abc import Sequence
from statistics import fmean
from typing import Final

import paper_rows as paper
from choices import BATCHES, sizes
from page_tables import ROOT, main_of_tables, table
from paper_rows import MIB, Row, counted, measured, row

from peft_regress.catalogue.evidence import read_evidence

PAGE: Final = ROOT / "docs" / "paper.md"
PRINTED_TASKS: Final = {
    "imagenet_to_vww": "printed, ImageNet to VWW (new classes)",
    "imagenet_to_c10c_impulse": "printed, ImageNet to CIFAR-10-C, impulse noise",
    "cifar10_to_c10c_brightness": "printed, CIFAR-10 to CIFAR-10-C, brightness",
}
COMPARED: Final = ("gpt2", "vit_b_16", "resnet18", "mobilenet_v2", "mobilenet_v3_small")
DEFAULT_ARCHITECTURES: Final = (*COMPARED[2:], "shufflenet_v2_x0_5")


def saving(part: float, whole: float) -> str:
    """Show how much less the part is, in percent; negative if it is more, but zero has no sign."""
    return f"{100 * (1 - part / whole):.1f}".replace("-0.0", "0.0")


def memory() -> str:
    """Return every printed memory figure with the difference to the measured value."""
    rows = []
    for case in dict.fromkeys(figure.row for figure in paper.MEMORY_FIGURES):
        cells = [case.architecture, case.method]
        for category in paper.CATEGORIES:
            size = paper.memory_bytes(measured(case), category) / MIB
            figure = paper.PRINTED_MIB.get((case, category))
            cells.append(f"{figure} ({size - float(figure):+.3f})" if figure else f"{size:.2f}")
        rows.append(cells)
    return table(["architecture", "method", *paper.CATEGORIES], rows, names=2)


def flops() -> str:
    """Return every printed FLOP figure, and the count of the paper's counter."""
    rows = []
    for figure in paper.FLOP_FIGURES:
        case, ours = figure.row, f"{figure.counted_gflops():.4f}"
        rows.append([case.architecture, case.method, figure.name, f"{figure.printed}", ours])
    header = ["architecture", "method", "phase", "printed", "paper's counter"]
    return table(header, rows, names=3)


def savings() -> str:
    """Return what each method saves in memory and FLOPs, by both counts."""

    def costs(case: Row) -> tuple[int, ...]:
        step, count = measured(case).step, counted(case)
        both, correct = count.forward + count.backward, step.forward_flops + step.backward_flops
        backward = count.backward, step.backward_flops
        return step.category_sum_bytes, step.peak_bytes, *backward, both, correct

    rows = [
        [architecture, method, *map(saving, costs(row(architecture, method)), full)]
        for architecture in DEFAULT_ARCHITECTURES
        for full in [costs(row(architecture, "full"))]
        for method in ("lora", "dora", "bn_head")
    ]
    phases, counts = ("backward", "forward + backward"), ("paper's counter", "correct")
    flops = [f"{phase}, {count}" for phase in phases for count in counts]
    return table(["architecture", "method", "paper's total", "peak", *flops], rows, names=2)


def others(names: Sequence[str] = COMPARED, batches: Sequence[int] = (1, 8, 32)) -> str:
    """Return what methods save by batch, of a language model and a vision transformer too."""
    rows = []
    for architecture, batch in itertools.product(names, batches):
        cases = (row(architecture, name, batch=batch) for name in ("full", "lora", "dora"))
        full, lora, dora = (measured(case).step for case in cases)
        kept = sum(one.bytes for one in lora.bytes_at_peak if one.category == "activation")
        total = saving(lora.category_sum_bytes, full.category_sum_bytes)
        peaks = [saving(one.peak_bytes, full.peak_bytes) for one in (lora, dora)]
        peaks.insert(1, f"{100 * kept / lora.peak_bytes:.1f}")
        rows.append([architecture, f"{batch}", f"{full.peak_bytes / MIB:.2f}", total, *peaks])
    header = ["architecture", "batch", "full, peak MiB", "LoRA, paper's total", "LoRA, peak"]
    header += ["activations in LoRA's peak", "DoRA, peak"]
    return table(header, rows)


def lean() -> str:
    """Return the MiB of a step as the gate takes it: PyTorch's, by `lean`, and ExecuTorch's."""
    shown, rows = ["full", "lean full", "lora-r4", "lean lora-r4", "ExecuTorch lora-r4"], []
    for batch in BATCHES:
        found = sizes("mobilenet_v2", batch)
        cells = (f"{found[name] / MIB:.1f}" if name in found else "" for name in shown)
        rows.append([str(batch), *cells])
    return table(["batch", *shown], rows)


def accuracy() -> str:
    """Return the paper's printed accuracies of mobilenet_v2, then those of the study's tasks."""
    printed = paper.PUBLISHED["accuracy_percent_mobilenet_v2_five_epochs"]
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


TABLES: Final = {make.__name__: make for make in (memory, flops, savings, lean, accuracy, others)}

if __name__ == "__main__":
    sys.exit(main_of_tables(PAGE, "paper", TABLES))
