"""The units, directions and kinds a metric can have, and how a value is shown.

Values are stored unscaled (bytes, FLOPs, fractions); scaling happens on display alone.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Direction", "Kind", "Unit", "format_change", "format_value"]

Unit = Literal["count", "flop", "byte", "second", "fraction", "nat", "ratio"]
Direction = Literal["lower", "higher", "same", "none"]
Kind = Literal["exact", "bytes", "fingerprint", "accuracy", "seconds", "info"]

_STEPS: dict[str, tuple[tuple[float, str], ...]] = {
    "byte": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
    "flop": ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1, "FLOP")),
    "second": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
}


def format_value(value: float, unit: Unit) -> str:
    """Show a stored value the way a person reads it: 706,115,232 flop -> '706.1 MFLOP'."""
    if unit in _STEPS:
        for size, name in _STEPS[unit]:
            if abs(value) >= size:
                shown = f"{value:,.0f}" if size == 1 and unit != "second" else None
                return f"{shown or _significant(value / size)} {name}"
        smallest, name = _STEPS[unit][-1]
        return f"{value / smallest:.3g} {name}"
    if unit == "fraction":
        return f"{100 * value:.1f} %"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "nat":
        return f"{value:.7g} nat"
    return f"{value:.3f}"


def _significant(value: float) -> str:
    """Show four significant digits, and never an exponent: 3.854, 706.1, 1298."""
    whole = len(f"{abs(value):.0f}")
    return f"{value:.{max(4 - whole, 0)}f}"


def format_change(relative_change: float | None) -> str:
    """Show a relative change with its sign: 0.838 -> '+83.8 %', 3e-07 -> '+3.0e-07'."""
    if relative_change is None:
        return "n/a"
    if relative_change == 0:
        return "0 %"
    if abs(relative_change) < 1e-4:  # noqa: PLR2004  (below 0.01 % a percentage shows nothing)
        return f"{relative_change:+.1e}"
    return f"{100 * relative_change:+.4g} %"
