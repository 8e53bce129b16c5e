"""The units, directions and kinds a metric can have, and how a value is shown.

Values are stored unscaled (bytes, FLOPs, fractions); scaling happens on display alone.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Direction", "Kind", "Unit", "format_change", "format_value"]

Unit = Literal["count", "flop", "byte", "second", "fraction", "nat", "ratio"]
Direction = Literal["lower", "higher", "same", "none"]
Kind = Literal["exact", "bytes", "fingerprint", "accuracy", "seconds", "info"]

_DECIMAL_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY_STEPS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_TIME_STEPS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def format_value(value: float, unit: Unit) -> str:
    """Show a stored value the way a person reads it: 706,115,232 flop -> '706.1 MFLOP'."""
    if unit == "byte":
        for size, name in _BINARY_STEPS:
            if abs(value) >= size:
                return f"{value / size:.2f} {name}"
        return f"{value:.0f} B"
    if unit == "flop":
        for size, prefix in _DECIMAL_STEPS:
            if abs(value) >= size:
                return f"{value / size:.1f} {prefix}FLOP"
        return f"{value:.0f} FLOP"
    if unit == "second":
        for size, name in _TIME_STEPS:
            if abs(value) >= size:
                return f"{value / size:.2f} {name}"
        return f"{value:.1e} s"
    if unit == "fraction":
        return f"{100 * value:.1f} %"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "nat":
        return f"{value:.7g} nat"
    return f"{value:.3f}"


def format_change(relative_change: float | None) -> str:
    """Show a relative change with its sign: 0.838 -> '+83.8 %', 3e-07 -> '+3.0e-07'."""
    if relative_change is None:
        return "n/a"
    if relative_change == 0:
        return "0 %"
    if abs(relative_change) < 1e-4:  # noqa: PLR2004  (below 0.01 % a percentage shows nothing)
        return f"{relative_change:+.1e}"
    return f"{100 * relative_change:+.4g} %"
