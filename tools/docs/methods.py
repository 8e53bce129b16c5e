"""Write the tables of docs/methods.md from the code and from measurements, or check them.

    python tools/docs/methods.py                   print every table
    python tools/docs/methods.py --write           put them into docs/methods.md
    python tools/docs/methods.py --check           exit 1 if the page differs
    python tools/docs/methods.py --only costs      one table; may name several

The text of the page is written by hand. A table is between the comments `<!-- methods:NAME -->` and
`<!-- /methods:NAME -->`. The costs take two minutes on one core; the rest is quick.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, Final, cast

import torch
from page_tables import ROOT, finish, option_parser, recorded, require, state_table, table

from peft_regress import registry
from peft_regress.cases import BFLOAT16_SUFFIX, Adaptation
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.errors import PeftRegressError
from peft_regress.measure.costs import CostReport, CostSettings, adaptation_cost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from peft_regress.catalogue.methods import Method
    from peft_regress.runs.schema import Record

PAGE: Final = ROOT / "docs" / "methods.md"
RANK: Final = 4
ARCHITECTURES: Final = ("resnet18", "mobilenet_v2")
_BATCH: Final = 32


def rank_of(method: Method) -> int | None:
    """Return the rank that the tables show: 4, or the lowest of a method that has none of 4."""
    return RANK if RANK in method.ranks else min(method.ranks, default=None)


def methods() -> list[str]:
    """Return the methods, as the table on the page names them that a person writes."""
    listed = PAGE.read_text(encoding="utf-8").partition("## Where each works")[0]
    return re.findall(r"^\| `([\w-]+)`", listed, re.MULTILINE)


# --- Their states in a run -------------------------------------------------------------------


def states(records: Mapping[str, Record]) -> str:
    """Return the state of every method on every architecture; equal states share a row."""
    wanted = [
        case
        for matrix in ("default", "extended")
        for case in matrix_cases(matrix, task="shift")
        if case.rank == rank_of(registry.get("method", case.method))
    ]
    require(wanted, records, matrix="extended")
    return state_table(wanted, records, lambda case: case.method)


# --- What they cost -------------------------------------------------------------------------------


@cache
def cost(method: str, architecture: str) -> CostReport | None:
    """Profile a step; None if the library cannot run one."""
    rank = rank_of(registry.get("method", method))
    adaptation = Adaptation(method=method, architecture=architecture, rank=rank)
    try:
        return adaptation_cost(adaptation, CostSettings(batch=_BATCH))
    except PeftRegressError:
        return None


def cost_cells(method: str, architecture: str) -> tuple[str, ...]:
    """Return the cells of a method: parameters, and its costs relative to full fine-tuning."""
    report = cost(method, architecture)
    if report is None:
        return ("-",) * 5
    full = cast("CostReport", cost("full", architecture)).step
    half = f"{method}{BFLOAT16_SUFFIX}"
    on_half = cost(half, architecture) if half in registry.names("method") else None
    return (
        f"{report.trainable_params:,}",
        _ratio(report.step.forward_flops, full.forward_flops),
        _ratio(report.step.backward_flops, full.backward_flops),
        _ratio(report.step.peak_bytes, full.peak_bytes),
        "" if on_half is None else _ratio(on_half.step.peak_bytes, full.peak_bytes),
    )


def cost_rows(architecture: str) -> list[list[str]]:
    """Return a row for each set of equal cells, with all methods that have them."""
    names: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for method in methods():
        names[cost_cells(method, architecture)].append(f"`{method}`")
    return [[", ".join(sharing), *cells] for cells, sharing in names.items()]


def _ratio(part: int, whole: int) -> str:
    share = part / whole
    return f"{share:.2f}" if share < 10 else f"{share:.0f}"


def costs() -> str:
    """Return what one step costs, on two architectures."""
    header = ["method", "trained", "forward", "backward", "peak", "peak on bfloat16"]
    blocks = []
    for architecture in ARCHITECTURES:
        full = cast("CostReport", cost("full", architecture)).step
        rows = cost_rows(architecture)
        blocks.append(
            f"{architecture}, r = {RANK}, over full fine-tuning, which takes at batch {_BATCH} "
            f"{full.forward_flops / 1e9:.2f} GFLOP forward, {full.backward_flops / 1e9:.2f} "
            f"backward, peak {full.peak_bytes / 2**20:.1f} MiB\n\n" + table(header, rows, names=1)
        )
    return "\n\n".join(blocks)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, write or check the chosen tables; return the exit code."""
    return finish(PAGE, "methods", TABLES, option_parser(__doc__, TABLES).parse_args(arguments))


TABLES: Final[dict[str, Callable[[], str]]] = {
    "states": lambda: states(recorded()),
    "costs": costs,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
