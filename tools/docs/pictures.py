"""Draw the pictures of the documents as SVG, or check that they are up to date.

    python tools/docs/pictures.py                 draw those that are out of date
    python tools/docs/pictures.py --check         exit 1 if one is out of date
    python tools/docs/pictures.py --only pareto   one picture; may name several

A picture names the digest of the numbers and text that it shows, and is up to date as long as they
have it. Text stays text and ids are fixed, so that the same release of matplotlib or rich gives
the same bytes.
"""

from __future__ import annotations

import argparse
import inspect
import io
import os
import re
import sys
import tempfile
from contextlib import chdir, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import matplotlib as mpl
import msgspec
from matplotlib.figure import Figure
from paper import RANK_ARCHITECTURES, RANKS, step_flops
from paper_rows import MIB, measured, row

from peft_regress.cli.main import main as run_command
from peft_regress.runs.run_file import read_run_file, write_run_file
from peft_regress.runs.schema import canonical_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes

    from peft_regress.measure.costs import CostReport

ROOT: Final = Path(__file__).resolve().parents[2]
ENTRIES: Final = ROOT / "baselines" / "Linux-CPython-3.11-64bit"
VERDICT_COMMAND: Final = "peft-regress compare old.json new.json"
_OLD, _NEW = "0004_peft-0.21.2", "0007_peft-0.14.0"
_COMPARED: Final = ("shift/dora-r4/resnet18", "shift/lora-r4/resnet18")
_WIDTH: Final = 100
_METHODS: Final = {
    "full": ("full", "#000000", "s"),
    "head": ("head", "#999999", "v"),
    "bn_head": ("BN + head", "#CC79A7", "^"),
    "lora": ("LoRA", "#0072B2", "o"),
    "dora": ("DoRA", "#D55E00", "D"),
    "galore": ("GaLore", "#009E73", "P"),
}
"""Name, colour and mark; colour-blind readers can distinguish Okabe and Ito's colours."""


# --- The ranks ------------------------------------------------------------------------------------


def ranks_data() -> dict[str, Any]:
    """Return what ranks cost in the paper's setting, by architecture, method and rank."""
    return {
        architecture: {
            "full": {"0": _costs(measured(row(architecture, "full")))},
            **{
                method: {
                    str(rank): _costs(measured(row(architecture, method, rank))) for rank in RANKS
                }
                for method in ("lora", "dora", "galore")
            },
        }
        for architecture in RANK_ARCHITECTURES
    }


def _costs(report: CostReport) -> dict[str, int]:
    return {
        "peak_bytes": report.step.peak_bytes,
        "flops": step_flops(report.step),
        "trainable_params": report.trainable_params,
    }


def draw_ranks(data: dict[str, Any], remark: str) -> str:
    """Draw peak, FLOPs and trained parameters over the rank, full fine-tuning dashed."""
    units = {
        "peak, MiB": ("peak_bytes", MIB),
        "forward + backward, GFLOP": ("flops", 1e9),
        "trained, million": ("trainable_params", 1e6),
    }
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    panels = figure.subplots(len(data), len(units), sharex=True, squeeze=False)
    for (architecture, methods), line in zip(data.items(), panels, strict=True):
        full = methods.pop("full")["0"]
        for (title, (cost, unit)), panel in zip(units.items(), line, strict=True):
            for method, by_rank in methods.items():
                ranks = [int(rank) for rank in by_rank]
                values = [costs[cost] / unit for costs in by_rank.values()]
                panel.plot(ranks, values, marker="o", markersize=3, label=_METHODS[method][0])
            whole = full[cost] / unit
            panel.axhline(whole, color="black", linestyle="dashed", linewidth=1, label="full")
            panel.set_xscale("log", base=2)
            panel.set_xticks(ranks, [str(rank) for rank in ranks])
            panel.set_ylim(bottom=0)
            panel.set_title(f"{architecture}: {title}", fontsize="medium")
            _plain(panel)
    for panel in panels[-1]:
        panel.set_xlabel("rank")
    panels[0][0].legend(frameon=False)
    return _svg(figure, remark)


# --- Accuracy over memory -------------------------------------------------------------------------


def pareto_data() -> dict[str, Any]:
    """Return peak bytes at batch 1 and accuracy of every case of a stored baseline."""
    found: dict[str, Any] = {}
    for record in read_run_file(ENTRIES / f"{_OLD}.json").run:
        case = record.case
        panel = found.setdefault(case.task, {}).setdefault(case.architecture, {})
        name = case.method if case.rank is None else f"{case.method}-r{case.rank}"
        panel[name] = [record.metrics["peak_bytes"].value, record.metrics["accuracy"].value]
    return found


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the points that no other point beats, by rising cost: (cost, gain) each.

    One beats another if it costs no more and gains no less, and is not the same in both.
    """
    front: list[str] = []
    best = float("-inf")
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if points[name][1] > best:
            front.append(name)
            best = points[name][1]
    return front


def draw_pareto(data: dict[str, Any], remark: str) -> str:
    """Draw accuracy over peak memory, a panel per task and architecture, the front as a line."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    architectures = sorted({name for panels in data.values() for name in panels})
    panels = figure.subplots(len(data), len(architectures), sharex="col", squeeze=False)
    for (task, found), line in zip(data.items(), panels, strict=True):
        line[0].set_ylabel("accuracy, %")
        for architecture, panel in zip(architectures, line, strict=True):
            _draw_front(panel, found[architecture])
            panel.set_title(f"{task}: {architecture}", fontsize="small")
    for panel in panels[-1]:
        panel.set_xlabel("peak of a step at batch 1, MiB")
    for label, color, marker in _METHODS.values():
        panels[0][0].plot([], [], marker, color=color, markersize=5, label=label)
    figure.legend(loc="outside upper center", ncols=len(_METHODS), frameon=False)
    return _svg(figure, remark)


def _draw_front(panel: Axes, cases: Mapping[str, tuple[float, float]]) -> None:
    points = {name: (size / MIB, 100 * accuracy) for name, (size, accuracy) in cases.items()}
    front = pareto_front(points)
    panel.plot(*zip(*(points[name] for name in front), strict=True), color="#BBBBBB")
    for name, (x, y) in points.items():
        method, _, rank = name.partition("-r")
        label, color, marker = _METHODS[method]
        panel.plot(x, y, marker, color=color, markersize=5)
        if name in front:
            # Alternate above and below, because neighbours are close.
            odd = front.index(name) % 2
            panel.annotate(
                f"{label} {rank}".strip(),
                (x, y),
                (-4, 4) if odd else (4, -8),
                textcoords="offset points",
                ha="right" if odd else "left",
                fontsize=6,
            )
    _plain(panel)
    panel.set_xlim(0, 1.15 * max(x for x, _ in points.values()))


# --- A verdict ------------------------------------------------------------------------------------


def verdict_data() -> dict[str, Any]:
    """Return what a terminal shows of a comparison, escape sequences included."""
    with tempfile.TemporaryDirectory() as folder:
        for side, entry in (("old", _OLD), ("new", _NEW)):
            file = read_run_file(ENTRIES / f"{entry}.json")
            cases = {name: file.run.cases[name] for name in _COMPARED}
            run = msgspec.structs.replace(file.run, cases=cases, accepted=None)
            write_run_file(Path(folder) / f"{side}.json", run, {**file.document, "benchmarks": []})
        settings = {"TERM": "xterm-256color", "COLUMNS": str(_WIDTH), "LINES": "50"}
        screen = _Terminal(io.BytesIO(), encoding="utf-8")
        with (
            patch.dict(os.environ, settings, clear=True),
            chdir(folder),
            redirect_stdout(screen),
            suppress(SystemExit),
        ):
            run_command(VERDICT_COMMAND.split()[1:])
        screen.flush()
        shown = screen.buffer.getvalue().decode()  # type: ignore[attr-defined]
    return {"command": VERDICT_COMMAND, "text": shown}


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def draw_verdict(data: dict[str, Any], remark: str) -> str:
    """Draw what a terminal shows, the command first, in the reader's fonts."""
    from rich.console import Console
    from rich.text import Text

    console = Console(
        record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True,
        color_system="truecolor", legacy_windows=False,
    )  # fmt: skip
    console.print(Text(f"$ {data['command']}", style="bold"))
    console.print(Text.from_ansi(data["text"]))
    # rich's own format without fonts from the network.
    usual = inspect.signature(Console.export_svg).parameters["code_format"].default
    local = re.sub(r"@font-face \{\{.*?\}\}", "", usual, flags=re.DOTALL)
    local = local.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    svg = console.export_svg(title="peft-regress", unique_id="verdict", code_format=local)
    start = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:start]}\n    <desc>{remark}</desc>{svg[start:]}\n"


# --- All of them ----------------------------------------------------------------------------------

Drawing = tuple["Callable[[], dict[str, Any]]", "Callable[[dict[str, Any], str], str]"]
PICTURES: Final[dict[str, Drawing]] = {
    "paper_ranks": (ranks_data, draw_ranks),
    "pareto": (pareto_data, draw_pareto),
    "verdict": (verdict_data, draw_verdict),
}
"""By the name of the file in docs/: what it shows, and how it is drawn."""


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


def main(arguments: Sequence[str] | None = None, *, folder: Path = ROOT / "docs") -> int:
    """Draw or check the chosen pictures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if one is out of date")
    parser.add_argument("--only", nargs="+", choices=PICTURES, metavar="PICTURE", help="which")
    chosen = parser.parse_args(arguments)
    old = False
    for name in chosen.only or PICTURES:
        file = folder / f"{name}.svg"
        data, draw = PICTURES[name]
        shown = data()
        remark = f"data {canonical_digest(shown)}"
        current = file.exists() and remark in file.read_text()
        if not current and not chosen.check:
            file.write_text(draw(shown, remark))
        old |= not current
        print(f"{file.name} {'is current' if current else 'is' if chosen.check else 'was'}"
              f"{'' if current else ' out of date'}")  # fmt: skip
    return int(old and chosen.check)


if __name__ == "__main__":
    sys.exit(main())
