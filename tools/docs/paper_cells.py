"""How the tables of docs/paper.md show a number."""

from __future__ import annotations

from paper_rows import GIGA, MIB

__all__ = ["gflop", "mflop", "mib", "more", "percent", "saving"]


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
