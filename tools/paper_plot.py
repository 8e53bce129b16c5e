"""Draw what ranks cost, from the measurements of the table of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from paper_rows import GIGA, MIB, measured, row
from paper_tables import RANK_ARCHITECTURES, RANKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes

    from peft_regress.adaptation import CostReport

__all__ = ["draw_ranks"]

METHODS: Final = {"lora": "LoRA", "dora": "DoRA", "galore": "GaLore"}
PANELS: Final[dict[str, Callable[[CostReport], float]]] = {
    "peak, MiB": lambda report: report.step.peak_bytes / MIB,
    "forward + backward, GFLOP": lambda report: (
        (report.step.forward_flops + report.step.backward_flops) / GIGA
    ),
    "trained, million": lambda report: report.trainable_params / 1e6,
}


def draw_ranks(path: Path) -> None:
    """Write the plot as SVG: text as text and fixed ids, so that two runs give the same bytes."""
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    panels = figure.subplots(len(RANK_ARCHITECTURES), len(PANELS), sharex=True, squeeze=False)
    for architecture, line in zip(RANK_ARCHITECTURES, panels, strict=True):
        for (title, value), panel in zip(PANELS.items(), line, strict=True):
            _draw_panel(panel, architecture, title, value)
    for panel in panels[-1]:
        panel.set_xlabel("rank")
    panels[0][0].legend(frameon=False)
    with mpl.rc_context({"svg.hashsalt": "peft_regress", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _draw_panel(
    panel: Axes, architecture: str, title: str, value: Callable[[CostReport], float]
) -> None:
    for method, name in METHODS.items():
        values = [value(measured(row(architecture, method, rank))) for rank in RANKS]
        panel.plot(RANKS, values, marker="o", markersize=3, label=name)
    full = value(measured(row(architecture, "full")))
    panel.axhline(full, color="black", linestyle="dashed", linewidth=1, label="full")
    panel.set_xscale("log", base=2)
    panel.set_xticks(RANKS, [str(rank) for rank in RANKS])
    panel.set_ylim(bottom=0)
    panel.set_title(f"{architecture}: {title}", fontsize="medium")
    panel.spines[["top", "right"]].set_visible(False)
