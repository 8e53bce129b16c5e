"""How far the outputs of the two sides are apart. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PARTS: Final = {
    "unmerged": ("unmerged", "unmerged_again"),
    "merged": ("merged", "merged_again"),
    "reloaded": ("unmerged", "unmerged_again"),
}
"""Each output of the branch, and those of the base that it may be equal to: of the adapter that was
filled, and of its checkpoint, which the base itself may load as something else."""


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
    for part, right in PARTS.items():
        if part in branch and right[0] in base:
            found[part] = Difference(
                largest_base=_largest(base[right[0]]),
                largest_branch=_largest(branch[part]),
                absolute=min(_apart(base[one], branch[part]) for one in right if one in base),
            )
    return found


def _largest(outputs: NDArray[np.float32]) -> float:
    return float(np.abs(outputs).max())


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one - other).max())
