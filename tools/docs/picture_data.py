"""The data of the pictures in the documents: numbers and text, one function for each picture.

A picture is up to date if it was drawn from these data; `pictures.py` checks it. No torch at
import.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from paper_rows import (
    CATEGORIES,
    FLOP_FIGURES,
    MEMORY_FIGURES,
    Row,
    counted,
    measured,
    memory_bytes,
    row,
)

from peft_regress.runs.run_file import read_run_file, write_run_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from paper_rows import Figure

    from peft_regress.measure.step_profile import CostReport

__all__ = [
    "FLOP_METHODS",
    "MEMORY_METHODS",
    "PAPER_ARCHITECTURES",
    "PARETO_ENTRY",
    "RANK_METHODS",
    "VERDICT_COMMAND",
    "VERDICT_WIDTH",
    "flops_data",
    "memory_data",
    "pareto_data",
    "pareto_front",
    "ranks_data",
    "verdict_data",
]

PAPER_ARCHITECTURES: Final = ("resnet18", "mobilenet_v2")
MEMORY_METHODS: Final = ("full", "lora", "dora", "galore")
FLOP_METHODS: Final = ("full", "lora", "dora", "bn_head")
RANK_METHODS: Final = ("lora", "dora", "galore")

_ENTRIES: Final = Path(__file__).resolve().parents[2] / "baselines" / "Linux-CPython-3.11-64bit"
PARETO_ENTRY: Final = "0004_peft-0.21.2"
VERDICT_ENTRIES: Final = ("0004_peft-0.21.2", "0007_peft-0.14.0")
_VERDICT_CASES: Final = ("shift/dora-r4/resnet18", "shift/lora-r4/resnet18")
VERDICT_COMMAND: Final = "peft-regress compare old.json new.json"
VERDICT_WIDTH: Final = 100


def memory_data() -> dict[str, Any]:
    """Return the paper's Figure 1, by architecture and method: MiB printed, bytes measured."""
    return {
        architecture: {
            method: {
                "printed": _printed(MEMORY_FIGURES, row(architecture, method)),
                "measured": {
                    category: memory_bytes(measured(row(architecture, method)), category)
                    for category in CATEGORIES
                },
            }
            for method in MEMORY_METHODS
        }
        for architecture in PAPER_ARCHITECTURES
    }


def flops_data() -> dict[str, Any]:
    """Return the FLOPs of Figures 2 and 5, by architecture, method and phase.

    GFLOP printed; FLOPs by the paper's own counter, and correctly counted.
    """
    return {
        architecture: {
            method: {
                phase: {
                    "printed": _printed(FLOP_FIGURES, row(architecture, method)).get(phase),
                    "paper": getattr(counted(row(architecture, method)), phase),
                    "correct": getattr(measured(row(architecture, method)).step, f"{phase}_flops"),
                }
                for phase in ("forward", "backward")
            }
            for method in FLOP_METHODS
        }
        for architecture in PAPER_ARCHITECTURES
    }


def _printed(figures: tuple[Figure, ...], of: Row) -> dict[str, str]:
    """Return the printed figures of a row, with the digits that are printed."""
    return {figure.name: str(figure.printed) for figure in figures if figure.row == of}


def ranks_data() -> dict[str, Any]:
    """Return what ranks cost in the paper's setting, by architecture, method and rank."""
    from paper_tables import RANK_ARCHITECTURES, RANKS

    return {
        architecture: {
            "full": {"0": _costs(measured(row(architecture, "full")))},
            **{
                method: {
                    str(rank): _costs(measured(row(architecture, method, rank))) for rank in RANKS
                }
                for method in RANK_METHODS
            },
        }
        for architecture in RANK_ARCHITECTURES
    }


def _costs(report: CostReport) -> dict[str, int]:
    return {
        "peak_bytes": report.step.peak_bytes,
        "flops": report.step.forward_flops + report.step.backward_flops,
        "trainable_params": report.trainable_params,
    }


def pareto_data() -> dict[str, Any]:
    """Return peak bytes at batch 1 and accuracy of every case of the stored default baseline."""
    found: dict[str, Any] = {}
    for record in read_run_file(_ENTRIES / f"{PARETO_ENTRY}.json").run:
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


def verdict_data() -> dict[str, Any]:
    """Return what a terminal shows of a comparison, escape sequences included."""
    with tempfile.TemporaryDirectory() as folder:
        for name, entry in zip(("old", "new"), VERDICT_ENTRIES, strict=True):
            file = read_run_file(_ENTRIES / f"{entry}.json")
            cases = {name: file.run.cases[name] for name in _VERDICT_CASES}
            run = msgspec.structs.replace(file.run, cases=cases, accepted=None)
            write_run_file(Path(folder) / f"{name}.json", run, {**file.document, "benchmarks": []})
        command = [sys.executable, "-m", "peft_regress", *VERDICT_COMMAND.split()[1:]]
        return {"command": VERDICT_COMMAND, "text": _on_a_terminal(command, Path(folder))}


def _on_a_terminal(command: list[str], folder: Path) -> str:
    """Run a command on a terminal of its own, so that it shows what a person would see."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, VERDICT_WIDTH, 0, 0))
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.fullmatch(r"CI|GITHUB_.*|.*_COLORS?", name)
    }
    settings = {"TERM": "xterm-256color", "COLUMNS": str(VERDICT_WIDTH), "LINES": "50"}
    done = subprocess.Popen(
        command, cwd=folder, env=kept | settings, stdout=theirs, stderr=theirs, stdin=theirs
    )
    os.close(theirs)
    seen = b""
    # On Linux, reading a terminal whose other side is closed raises an error.
    while part := _read(ours):
        seen += part
    os.close(ours)
    done.wait()
    return seen.decode().replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
