"""How far the outputs of the two sides are apart. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PARTS: Final = ("unmerged", "merged")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The outputs of both sides for one function."""

    largest_base: float
    """The largest absolute output of the base."""
    largest_branch: float
    absolute: float
    """The largest absolute difference; NaN if a side gives one."""
    floor: float
    """The same between the base and its own checkpoint, loaded by itself."""

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
        if part in base and part in branch:
            again = base.get(f"{part}_again", base[part])
            # The branch loads a file: where the base itself computes something else from it, either
            # of the two is right.
            apart = min(_apart(base[part], branch[part]), _apart(again, branch[part]))
            found[part] = Difference(
                largest_base=_largest(base[part]),
                largest_branch=_largest(branch[part]),
                absolute=apart,
                floor=_apart(base[part], again),
            )
    return found


def _largest(outputs: NDArray[np.float32]) -> float:
    return float(np.abs(outputs).max())


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one - other).max())
