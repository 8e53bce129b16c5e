"""How far the outputs of the two sides are apart. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

PARTS: Final = {
    "unmerged": "loading",
    "off": "disabling",
    "merged": "merging",
    "merged safely": "merging",
    "restored": "unmerging",
    "off when merged": "unmerging",
    "reloaded": "reloading",
}
"""The outputs that are compared, and what gives each: of the adapter, of the base with the adapter
off, of the merged adapter, of the base with the adapter unmerged after that and off, of the base
with a merged adapter off, and of the adapter that was saved and loaded again."""
AGAIN: Final = " again"
"""Follows the name of an output that the base gives with its own checkpoint, loaded by itself."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The outputs of both sides for one function."""

    largest_base: float
    """The largest absolute output of the base."""
    largest_branch: float
    absolute: float
    """The largest absolute difference; NaN if a side gives one."""

    @property
    def relative(self) -> float:
        """The difference as a share of the largest output of the base."""
        return self.absolute / self.largest_base if self.largest_base else self.absolute


def differences(folder: Path) -> dict[str, Difference]:
    """Compare the outputs that both sides have written into a folder."""
    base = load_file(folder / "outputs-base.safetensors")
    branch = load_file(folder / "outputs-branch.safetensors")
    found: dict[str, Difference] = {}
    for part in PARTS:
        # Saved and loaded again, it is what it was.
        of_base = "unmerged" if part == "reloaded" else part
        # Where the base makes something else of its own file, either of the two is right.
        right = [base[name] for name in (of_base, of_base + AGAIN) if name in base]
        if part in branch and right:
            found[part] = Difference(
                largest_base=_largest(right[0]),
                largest_branch=_largest(branch[part]),
                absolute=min(_apart(one, branch[part]) for one in right),
            )
    return found


def _largest(outputs: NDArray[np.float32]) -> float:
    return float(np.abs(outputs).max())


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return _largest(one - other) if one.shape == other.shape else float("inf")
