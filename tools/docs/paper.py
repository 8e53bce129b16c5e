"""Write the tables of docs/paper.md from measurements, or check them.

    python tools/docs/paper.py                 print every table
    python tools/docs/paper.py --write         put them into docs/paper.md
    python tools/docs/paper.py --check         exit 1 if the page differs from what is measured
    python tools/docs/paper.py --only flops    one table; may name several

The text of the page is written by hand. A table is between the comments `<!-- paper:NAME -->` and
`<!-- /paper:NAME -->`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from page_tables import finish, option_parser, table
from paper_rows import (
    CATEGORIES,
    FLOP_FIGURES,
    GIGA,
    MEMORY_FIGURES,
    MIB,
    counted,
    measured,
    memory_bytes,
    row,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peft_regress.cost import StepCost

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "paper.md"
DEFAULT_ARCHITECTURES: Final = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
)
RANK_ARCHITECTURES: Final = ("resnet18", "mobilenet_v2")
RANKS: Final = (1, 2, 4, 8, 16, 32, 64)
LIMIT_RANKS: Final = (1, 4, 16, 64)
LARGER_ARCHITECTURES: Final = (
    "vit_b_16",
    "swin_t",
    "convnext_tiny",
    "resnet50",
    "resnet18",
    "efficientnet_b0",
    "mobilenet_v2",
)
PAPER_GAP: Final = 200
LARGE_BATCH: Final = 32


# --- How a number is shown ------------------------------------------------------------------------


def mib(size: int) -> str:
    """Show bytes as MiB."""
    return f"{size / MIB:.2f}"


def gflop(flops: int) -> str:
    """Show FLOPs as GFLOP."""
    return f"{flops / GIGA:.3f}"


def mflop(flops: int) -> str:
    """Show FLOPs as MFLOP."""
    return f"{flops / 10**6:,.2f}"


def percent(share: float) -> str:
    """Show a share in percent; zero has no sign."""
    return f"{100 * share:.1f} %".replace("-0.0", "0.0")


def saving(part: float, whole: float) -> str:
    """Show how much less the part is, in percent; negative if it is more."""
    return percent(1 - part / whole)


def more(before: float, after: float) -> str:
    """Show by how much it grew, in percent."""
    return f"{100 * (after / before - 1):+.1f} %"


# --- The tables -----------------------------------------------------------------------------------


def step_flops(step: StepCost) -> int:
    """Sum the matrix work of forward and backward pass, counted correctly."""
    return step.forward_flops + step.backward_flops


def memory() -> str:
    """Return every printed memory figure with the difference to the measured value."""
    printed = {(figure.row, figure.name): figure.printed for figure in MEMORY_FIGURES}
    rows = []
    for case in dict.fromkeys(figure.row for figure in MEMORY_FIGURES):
        cells = [case.architecture, case.method]
        for category in CATEGORIES:
            size = memory_bytes(measured(case), category) / MIB
            figure = printed.get((case, category))
            cells.append(
                f"{size:.2f}" if figure is None else f"{figure} ({size - float(figure):+.3f})"
            )
        rows.append(cells)
    return table(["architecture", "method", *CATEGORIES], rows, names=2)


def flops() -> str:
    """Return every printed FLOP figure, the count of the paper's counter, and the difference."""
    rows = []
    for figure in FLOP_FIGURES:
        ours = figure.counted_gflops()
        difference = f"{ours - float(figure.printed):+.4f}"
        case = figure.row
        cells = [case.architecture, case.method, figure.name, f"{figure.printed}", f"{ours:.4f}"]
        rows.append([*cells, difference])
    header = ["architecture", "method", "phase", "printed", "paper's counter", "difference"]
    return table(header, rows, names=3)


def counters() -> str:
    """Return the steps from the correct count of a backward pass to the paper's count."""
    rows = []
    for figure in FLOP_FIGURES:
        if figure.name != "backward":
            continue
        step, count = measured(figure.row).step, counted(figure.row)
        parts = (
            step.backward_flops,
            step.paper_backward_flops - step.backward_flops,
            count.piece("additions in gradients"),
            count.piece("add", "forward", "backward") + count.piece("mul", "forward", "backward"),
            count.piece("mm", "forward"),
            count.backward,
        )
        rows.append([figure.row.architecture, figure.row.method, *map(mflop, parts)])
    header = [
        "architecture",
        "method",
        "correct",
        "groups",
        "additions in gradients",
        "sums and products",
        "weight products",
        "paper's counter",
    ]
    return table(header, rows, names=2)


def savings() -> str:
    """Return what each method saves in memory and FLOPs, by both counts."""
    rows = []
    for architecture in DEFAULT_ARCHITECTURES:
        whole = row(architecture, "full")
        full, full_count = measured(whole).step, counted(whole)
        for method in ("lora", "dora", "galore", "bn_head"):
            case = row(architecture, method)
            step, count = measured(case).step, counted(case)
            pairs = (
                (step.category_sum_bytes, full.category_sum_bytes),
                (step.peak_bytes, full.peak_bytes),
                (count.backward, full_count.backward),
                (step.backward_flops, full.backward_flops),
                (count.forward + count.backward, full_count.forward + full_count.backward),
                (step_flops(step), step_flops(full)),
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


def limits() -> str:
    """Return the most that adapters in every layer can save in FLOPs of a step."""
    rows = []
    for architecture in DEFAULT_ARCHITECTURES:
        full = measured(row(architecture, "full")).step
        # A weight gradient costs as much as the layer's forward pass, and is all that can go.
        saved = [saving(step_flops(full) - full.forward_flops, step_flops(full))]
        lora = {
            rank: step_flops(measured(row(architecture, "lora", rank)).step) for rank in LIMIT_RANKS
        }
        saved += [saving(flops, step_flops(full)) for flops in lora.values()]
        first, *_, last = LIMIT_RANKS
        of_a_rank = (lora[last] - lora[first]) / (last - first)  # adapters are linear in the rank
        even = first + (step_flops(full) - lora[first]) / of_a_rank
        rows.append([architecture, *saved, f"{even:.1f}"])
    ranks = (f"r={rank}" for rank in LIMIT_RANKS)
    return table(["architecture", "limit", *ranks, "rank where it saves nothing"], rows)


def dora() -> str:
    """Return what DoRA costs more than LoRA, by both counts and before peft 0.15."""
    columns = [_beside_lora(architecture) for architecture in RANK_ARCHITECTURES]
    rows = [[what, *(cell for column in columns for cell in column[what])] for what in columns[0]]
    header = ["cost", *(f"{name}, LoRA | DoRA | more" for name in RANK_ARCHITECTURES)]
    return table(" | ".join(header).split(" | "), rows)


def _beside_lora(architecture: str) -> dict[str, tuple[str, ...]]:
    cases = row(architecture, "lora"), row(architecture, "dora")
    counts = [counted(case) for case in cases]
    lora, dora = (measured(case).step for case in cases)
    old_forward = dora.forward_flops + repeated_base_flops(dora, "forward")
    old_backward = dora.backward_flops + repeated_base_flops(dora, "backward")
    rows = {
        "activation": (lora.peak_activation_bytes, dora.peak_activation_bytes),
        "peak": (lora.peak_bytes, dora.peak_bytes),
        "forward, paper's counter": (counts[0].forward, counts[1].forward),
        "backward, paper's counter": (counts[0].backward, counts[1].backward),
        "forward, correct": (lora.forward_flops, dora.forward_flops),
        "backward, correct": (lora.backward_flops, dora.backward_flops),
        "forward, correct, peft below 0.15": (lora.forward_flops, old_forward),
        "backward, correct, peft below 0.15": (lora.backward_flops, old_backward),
    }
    return {
        what: (*(mib(n) if what in {"activation", "peak"} else gflop(n) for n in pair), more(*pair))
        for what, pair in rows.items()
    }


def repeated_base_flops(step: StepCost, phase: str) -> int:
    """Sum the base convolutions of the adapted layers, which peft's DoRA ran twice before 0.15.

    One extra run is in the forward pass, one in the gradient of the layer's input.
    """
    return sum(
        site.flops
        for site in step.flops_by_site
        if site.phase == phase and site.module.endswith(".base_layer")
    )


def galore() -> str:
    """Return GaLore's optimizer state, as it is and with a copy, and the cost of its SVDs."""
    columns = [_galore_beside_adamw(architecture) for architecture in DEFAULT_ARCHITECTURES]
    rows = [[what, *(column[what] for column in columns)] for what in columns[0]]
    return table(["cost", *DEFAULT_ARCHITECTURES], rows)


def _galore_beside_adamw(architecture: str) -> dict[str, str]:
    full, galore, cloned = (
        measured(row(architecture, method)).step for method in ("full", "galore", "galore-cloned")
    )
    refresh = galore.projection_flops
    return {
        "state, AdamW": mib(full.optimizer_state_bytes),
        "state, GaLore": mib(galore.optimizer_state_bytes),
        "state, GaLore with a copy of the slice": mib(cloned.optimizer_state_bytes),
        "peak, AdamW": mib(full.peak_bytes),
        "peak, GaLore": mib(galore.peak_bytes),
        "peak, GaLore with a copy of the slice": mib(cloned.peak_bytes),
        "forward + backward": gflop(step_flops(galore)),
        "`step()`, AdamW": gflop(full.optimizer_flops),
        "`step()`, GaLore": gflop(galore.optimizer_flops),
        "one refresh": gflop(refresh),
        "one refresh, in steps": f"{refresh / step_flops(galore):.1f}",
        f"every {PAPER_GAP} steps, of a step": percent(refresh / PAPER_GAP / step_flops(galore)),
    }


def architectures() -> str:
    """Return what the methods save on larger and on attention-based architectures."""
    rows = []
    for architecture in LARGER_ARCHITECTURES:
        for batch in (1, LARGE_BATCH):
            full, lora, *others = (
                measured(row(architecture, method), batch).step
                for method in ("full", "lora", "dora", "galore", "head")
            )
            held = sum(site.bytes for site in lora.bytes_at_peak if site.category == "activation")
            rows.append(
                [
                    architecture,
                    f"{batch}",
                    mib(full.peak_bytes),
                    saving(lora.category_sum_bytes, full.category_sum_bytes),
                    saving(lora.peak_bytes, full.peak_bytes),
                    percent(held / lora.peak_bytes),
                    *(saving(step.peak_bytes, full.peak_bytes) for step in others),
                    saving(step_flops(lora), step_flops(full)),
                ]
            )
    header = [
        "architecture",
        "batch",
        "full, peak MiB",
        "LoRA, paper's total",
        "LoRA, peak",
        "activations in LoRA's peak",
        "DoRA, peak",
        "GaLore, peak",
        "head, peak",
        "LoRA, FLOPs",
    ]
    return table(header, rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "memory": memory,
    "flops": flops,
    "counters": counters,
    "savings": savings,
    "limits": limits,
    "dora": dora,
    "galore": galore,
    "architectures": architectures,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, write or check the chosen tables; return the exit code."""
    return finish(PAGE, "paper", TABLES, option_parser(__doc__, TABLES).parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
