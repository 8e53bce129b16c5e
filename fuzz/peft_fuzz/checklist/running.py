"""Let workers of the base, then of the branch, examine each situation; compare their outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from safetensors.numpy import load_file

from peft_fuzz.checklist.situations import (
    OUTPUTS,
    PARTS,
    Examine,
    Examined,
    Inspect,
    Inspected,
    Situation,
)
from peft_regress.errors import InputError
from peft_regress.workers.pool import Environment, Pool, UnusableEnvironmentError
from peft_regress.workers.process import WorkerError

_WORKER: Final = "peft_fuzz.checklist.examining"
_EACH: Final = 20
"""How many situations make a line of progress."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The outputs of both sides for one function.

    Attributes:
        largest_base: The largest absolute output of the base.
        absolute: The largest absolute difference; NaN if a side gives one.

    """

    largest_base: float
    largest_branch: float
    absolute: float

    @property
    def relative(self) -> float:
        """The difference as a share of the largest output of the base."""
        return self.absolute / self.largest_base if self.largest_base else self.absolute


@dataclass(frozen=True, kw_only=True)
class Result:
    """What both sides give in one situation.

    Attributes:
        branch: None if the base has nothing to compare with.
        found: The difference of the outputs, by the names of `PARTS`.

    """

    situation: Situation
    base: Examined
    branch: Examined | None
    found: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[Examined, Examined]:
        """What base and branch gave."""
        return self.base, self.branch or Examined()


def inspect(pool: Pool, sides: Sequence[Environment], method: str) -> list[Inspected]:
    """Return what base and branch say of the method. Raises `UnusableEnvironmentError`."""
    found = []
    for side, environment in zip(("base", "branch"), sides, strict=True):
        asked = [Inspect(method=method)]
        (future,) = pool.submit(environment, f"{_WORKER}:inspect", asked, Inspected)
        try:
            found.append(future.result())
        except (WorkerError, InputError) as error:
            raise UnusableEnvironmentError(f"the {side} cannot be used: {error}") from None
    return found


def compare(
    pool: Pool,
    sides: Sequence[Environment],
    situations: Sequence[Situation],
    say: Callable[[str], None],
) -> list[Result]:
    """Examine every situation on both sides, several at once; results are in their order."""
    with tempfile.TemporaryDirectory(prefix="peft-regress-", ignore_cleanup_errors=True) as scratch:
        folders = [Path(scratch, str(number)) for number in range(len(situations))]
        for folder in folders:
            folder.mkdir()

        def examined(side: int, requests: Sequence[Examine | None]) -> list[Examined | None]:
            futures: list[Future[Examined] | None] = [
                request and pool.submit(sides[side], f"{_WORKER}:examine", [request], Examined)[0]
                for request in requests
            ]
            found: list[Examined | None] = []
            for number, future in enumerate(futures, start=1):
                found.append(future and future.result())
                if number % _EACH == 0 or number == len(futures):
                    say(f"{('base', 'branch')[side]}: [{number}/{len(futures)}]")
            return found

        asked = [
            Examine(situation=one, folder=str(folder), is_base=True)
            for one, folder in zip(situations, folders, strict=True)
        ]
        bases = [one or Examined() for one in examined(0, asked)]
        branches = examined(
            1,
            [
                None
                if base.lost or base.unavailable
                # If there is no checkpoint to load: does the branch make one?
                else replace(one, is_base="adapting" in base.failures)
                for one, base in zip(asked, bases, strict=True)
            ],
        )
        return [
            Result(
                situation=situation,
                base=base,
                branch=branch,
                found={}
                if branch is None or branch.lost or "adapting" in base.failures
                else differences(folder),
            )
            for situation, base, branch, folder in zip(
                situations, bases, branches, folders, strict=True
            )
        ]


def differences(folder: Path) -> dict[str, Difference]:
    """Compare the outputs that both sides have written into a folder."""
    base = load_file(folder / OUTPUTS.format("base"))
    branch = load_file(folder / OUTPUTS.format("branch"))
    found: dict[str, Difference] = {}
    for part in PARTS:
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
