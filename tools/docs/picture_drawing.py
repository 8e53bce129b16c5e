"""Draw the pictures of the documents as SVG, from the numbers and text of `picture_data`.

Text stays text and ids are fixed, so that the same release of matplotlib or rich gives the same
bytes. The remark names the data of a picture; the picture contains it.
"""

from __future__ import annotations

import inspect
import io
import re
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from picture_data import FLOP_METHODS, MEMORY_METHODS, RANK_METHODS, VERDICT_WIDTH, pareto_front

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

__all__ = ["draw_flops", "draw_memory", "draw_pareto", "draw_ranks", "draw_verdict"]

_MIB: Final = 2**20
_NAMES: Final = {
    "full": "full",
    "lora": "LoRA",
    "dora": "DoRA",
    "galore": "GaLore",
    "bn_head": "BN + head",
    "head": "head",
}
# Okabe and Ito's colours: colour-blind readers can distinguish them.
_CATEGORIES: Final = {
    "param": "#0072B2",
    "buffer": "#000000",
    "grad": "#56B4E9",
    "activation": "#E69F00",
    "temp": "#F0E442",
    "optimizer": "#009E73",
    "not printed alone": "#BBBBBB",
}
_METHODS: Final = {
    "full": ("#000000", "s"),
    "head": ("#999999", "v"),
    "bn_head": ("#CC79A7", "^"),
    "lora": ("#0072B2", "o"),
    "dora": ("#D55E00", "D"),
    "galore": ("#009E73", "P"),
}
_COUNTERS: Final = {
    "printed": ("printed", "#BBBBBB"),
    "paper": ("measured, the paper's counter", "#E69F00"),
    "correct": ("measured, correct count", "#0072B2"),
}


def draw_memory(data: dict[str, Any], remark: str) -> str:
    """Stack the categories: a hatched bar as printed, a plain one as measured."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(1, len(data), squeeze=False)[0]
    for (architecture, methods), panel in zip(data.items(), panels, strict=True):
        for place, method in enumerate(MEMORY_METHODS):
            _stack_pair(panel, place, methods[method])
        panel.set_xticks(range(len(MEMORY_METHODS)), [_NAMES[name] for name in MEMORY_METHODS])
        panel.set_title(f"{architecture}, MiB", fontsize="medium")
        _plain(panel)
        panel.set_ylim(top=1.06 * panel.get_ylim()[1])
    for category, color in _CATEGORIES.items():
        panels[0].bar(0, 0, color=color, label=category)
    panels[0].bar(0, 0, color="white", edgecolor="black", hatch="//", label="as printed")
    figure.legend(loc="outside upper center", ncols=9, frameon=False, fontsize="small")
    return _svg(figure, remark)


def _stack_pair(panel: Axes, place: int, figures: dict[str, Any]) -> None:
    printed = {name: float(text) for name, text in figures["printed"].items()}
    measured = {name: size / _MIB for name, size in figures["measured"].items()}
    for offset, values, hatch in ((-0.2, printed, "//"), (0.2, measured, None)):
        total = values.pop("total")
        values["not printed alone"] = total - sum(values.values()) if hatch else 0.0
        height = 0.0
        for category, color in _CATEGORIES.items():
            size = max(values.get(category, 0.0), 0.0)
            panel.bar(
                place + offset, size, 0.38, bottom=height, color=color, hatch=hatch,
                edgecolor="white", linewidth=0.3,
            )  # fmt: skip
            height += size
        panel.text(place + offset, height, f"{total:.2f}", ha="center", va="bottom", size="x-small")


def draw_flops(data: dict[str, Any], remark: str) -> str:
    """Draw each phase as printed, by the paper's counter, and correctly counted."""
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    panels = figure.subplots(len(data), 2, squeeze=False)
    for (architecture, methods), line in zip(data.items(), panels, strict=True):
        for phase, panel in zip(("forward", "backward"), line, strict=True):
            for index, (counter, (label, color)) in enumerate(_COUNTERS.items()):
                scale = 1 if counter == "printed" else 1e9
                found = {
                    place: float(methods[method][phase][counter]) / scale
                    for place, method in enumerate(FLOP_METHODS)
                    if methods[method][phase][counter] is not None
                }
                places = [place + 0.27 * (index - 1) for place in found]
                bars = panel.bar(places, list(found.values()), 0.25, color=color, label=label)
                panel.bar_label(
                    bars, fmt=lambda value: f"{value:.3g}" if value > 0.01 else "~0", fontsize=6
                )
            panel.set_xticks(range(len(FLOP_METHODS)), [_NAMES[name] for name in FLOP_METHODS])
            panel.set_title(f"{architecture}, {phase} pass: GFLOP", fontsize="medium")
            _plain(panel)
    labels = panels[0][0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return _svg(figure, remark)


def draw_ranks(data: dict[str, Any], remark: str) -> str:
    """Draw peak, FLOPs and trained parameters over the rank, full fine-tuning dashed."""
    panels_of: dict[str, Callable[[dict[str, int]], float]] = {
        "peak, MiB": lambda costs: costs["peak_bytes"] / _MIB,
        "forward + backward, GFLOP": lambda costs: costs["flops"] / 1e9,
        "trained, million": lambda costs: costs["trainable_params"] / 1e6,
    }
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    panels = figure.subplots(len(data), len(panels_of), sharex=True, squeeze=False)
    for (architecture, methods), line in zip(data.items(), panels, strict=True):
        for (title, value), panel in zip(panels_of.items(), line, strict=True):
            for method in RANK_METHODS:
                ranks = [int(rank) for rank in methods[method]]
                values = [value(costs) for costs in methods[method].values()]
                panel.plot(ranks, values, marker="o", markersize=3, label=_NAMES[method])
            full = value(methods["full"]["0"])
            panel.axhline(full, color="black", linestyle="dashed", linewidth=1, label="full")
            panel.set_xscale("log", base=2)
            panel.set_xticks(ranks, [str(rank) for rank in ranks])
            panel.set_ylim(bottom=0)
            panel.set_title(f"{architecture}: {title}", fontsize="medium")
            _plain(panel)
    for panel in panels[-1]:
        panel.set_xlabel("rank")
    panels[0][0].legend(frameon=False)
    return _svg(figure, remark)


def draw_pareto(data: dict[str, Any], remark: str) -> str:
    """Draw accuracy over peak memory, a panel per task and architecture, the front as a line."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    architectures = sorted({name for panels in data.values() for name in panels})
    panels = figure.subplots(len(data), len(architectures), sharex="col", squeeze=False)
    for (task, found), line in zip(data.items(), panels, strict=True):
        for architecture, panel in zip(architectures, line, strict=True):
            points = {
                name: (size / _MIB, 100 * accuracy)
                for name, (size, accuracy) in found[architecture].items()
            }
            front = pareto_front(points)
            panel.plot(*zip(*(points[name] for name in front), strict=True), color="#BBBBBB")
            for name, (x, y) in points.items():
                method, _, rank = name.partition("-r")
                color, marker = _METHODS[method]
                panel.plot(x, y, marker, color=color, markersize=5)
            for index, name in enumerate(front):
                method, _, rank = name.partition("-r")
                # Alternate above and below, because neighbours are close.
                shift, align = ((-4, 4), "right") if index % 2 else ((4, -8), "left")
                panel.annotate(
                    f"{_NAMES[method]} {rank}".strip(), points[name], shift,
                    textcoords="offset points", ha=align, fontsize=6,
                )  # fmt: skip
            panel.set_title(f"{task}: {architecture}", fontsize="small")
            _plain(panel)
            panel.set_xlim(0, 1.15 * max(x for x, _ in points.values()))
    for line in panels:
        line[0].set_ylabel("accuracy, %")
    for panel in panels[-1]:
        panel.set_xlabel("peak of a step at batch 1, MiB")
    for method, (color, marker) in _METHODS.items():
        panels[0][0].plot([], [], marker, color=color, markersize=5, label=_NAMES[method])
    figure.legend(loc="outside upper center", ncols=len(_METHODS), frameon=False)
    return _svg(figure, remark)


def draw_verdict(data: dict[str, Any], remark: str) -> str:
    """Draw what a terminal shows, the command first, in the reader's fonts."""
    from rich.console import Console
    from rich.text import Text

    console = Console(
        record=True, width=VERDICT_WIDTH, file=io.StringIO(), force_terminal=True,
        color_system="truecolor", legacy_windows=False,
    )  # fmt: skip
    console.print(Text(f"$ {data['command']}", style="bold"))
    console.print(Text.from_ansi(data["text"]))
    svg = console.export_svg(
        title="peft-regress", unique_id="verdict", code_format=_terminal_format()
    )
    start = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:start]}\n    <desc>{remark}</desc>{svg[start:]}\n"


def _terminal_format() -> str:
    """Return rich's own format without fonts from the network."""
    from rich.console import Console

    usual = inspect.signature(Console.export_svg).parameters["code_format"].default
    local = re.sub(r"@font-face \{\{.*?\}\}", "", usual, flags=re.DOTALL)
    return local.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


def _plain(panel: Axes) -> None:
    panel.margins(y=0.1)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize="small")


def _svg(figure: Figure, remark: str) -> str:
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "peft_regress", "svg.fonttype": "none"}):
        figure.savefig(
            stream, format="svg", metadata={"Date": None, "Creator": None, "Description": remark}
        )
    return stream.getvalue()
