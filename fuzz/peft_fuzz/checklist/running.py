"""Let workers of the base, then of the branch, examine each situation; compare their outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from safetensors.numpy import load_file

from peft_fuzz.checklist import situations
from peft_fuzz.checklist.situations import Examine, Examined, Inspected, Situation
from peft_regress.errors import InputError
from peft_regress.workers.pool import Environment, Pool, UnusableEnvironmentError
from peft_regress.workers.worker import WorkerError

_WORKER: Final = "peft_fuzz.checklist.examining"
_EACH: Final = 20
"""How many situations make a line of progress."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The outputs of both sides for one function."""

    largest_base: float
    largest_branch: float
    absolute: float

    @property
    def relative(self) -> float:
        """The difference as a share of the largest output of the base."""
        return self.absolute / self.largest_base if self.largest_base else self.absolute


@dataclass(frozen=True, kw_only=True)
class Result:
    """What both sides give in one situation; `found` has the names of `PARTS`."""

    situation: Situation
    base: Examined
    branch: Examined
    found: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[Examined, Examined]:
        """What base and branch gave."""
        return self.base, self.branch


def inspect(pool: Pool, sides: Sequence[Environment], method: str) -> list[Inspected]:
    """Return what base and branch say of the method. Raises `UnusableEnvironmentError`."""
    found = []
    for side, environment in zip(("base", "branch"), sides, strict=True):
        asked = [situations.Inspect(method=method)]
        (future,) = pool.submit(environment, f"{_WORKER}:inspect", asked, Inspected)
        try:
            found.append(future.result())
        except (WorkerError, InputError) as error:
            raise UnusableEnvironmentError(f"the {side} cannot be used: {error}") from None
    return found


def compare(
    pool: Pool,
    sides: Sequence[Environment],
    chosen: Sequence[Situation],
    say: Callable[[str], None],
) -> list[Result]:
    """Examine every situation on both sides, several at once; results are in their order."""
    with tempfile.TemporaryDirectory(prefix="peft-regress-", ignore_cleanup_errors=True) as scratch:
        folders = [Path(scratch, str(number)) for number in range(len(chosen))]
        for folder in folders:
            folder.mkdir()

        def examined(side: int, requests: Sequence[Examine]) -> list[Examined]:
            futures = [
                pool.submit(sides[side], f"{_WORKER}:examine", [one], Examined)[0]
                for one in requests
            ]
            found = []
            for number, future in enumerate(futures, start=1):
                found.append(future.result())
                if number % _EACH == 0 or number == len(futures):
                    say(f"{('base', 'branch')[side]}: [{number}/{len(futures)}]")
            return found

        asked = [
            Examine(situation=one, folder=str(folder), is_base=True)
            for one, folder in zip(chosen, folders, strict=True)
        ]
        bases = examined(0, asked)
        # If there is no checkpoint to load: does the branch make one?
        again = [
            replace(one, is_base="adapting" in base.failures)
            for one, base in zip(asked, bases, strict=True)
        ]
        return [
            Result(situation=one, base=base, branch=branch, found=differences(folder))
            for one, base, branch, folder in zip(
                chosen, bases, examined(1, again), folders, strict=True
            )
        ]


def differences(folder: Path) -> dict[str, Difference]:
    """Compare the outputs that both sides have written into a folder."""
    files = [folder / situations.OUTPUTS.format(side) for side in ("base", "branch")]
    if not all(file.exists() for file in files):
        return {}
    base, branch = map(load_file, files)
    found: dict[str, Difference] = {}
    for part in situations.PARTS:
        # Saved and loaded again, it is what it was.
        right = base.get("unmerged" if part == "reloaded" else part)
        if part in branch and right is not None:
            found[part] = Difference(
                largest_base=_largest(right),
                largest_branch=_largest(branch[part]),
                absolute=_apart(right, branch[part]),
            )
    return found


def _largest(outputs: NDArray[np.float32]) -> float:
    return float(np.abs(outputs).max())


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return _largest(one - other) if one.shape == other.shape else float("inf")
