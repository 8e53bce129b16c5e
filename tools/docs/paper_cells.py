"""How the tables of docs/paper.md show a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_rows import GIGA, MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["gflop", "mflop", "mib", "more", "percent", "saving", "table"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1) -> str:
    """Return a Markdown table whose first columns are names, the others numbers."""
    rules = ["---"] * names + ["---:"] * (len(header) - names)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rules, *rows))


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
    """Show a share in percent, and no zero with a sign."""
    return f"{100 * share:.1f} %".replace("-0.0", "0.0")


def saving(part: float, whole: float) -> str:
    """Show how much less the part is, in percent; negative where it is more."""
    return percent(1 - part / whole)


def more(before: float, after: float) -> str:
    """Show by how much it grew, in percent."""
    return f"{100 * (after / before - 1):+.1f} %"
