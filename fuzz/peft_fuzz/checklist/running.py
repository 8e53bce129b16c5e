"""Let a worker of the base and one of the branch take turns; compare their outputs."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_high
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from peft_fuzz.checklist.situations import (
    AGAIN,
    OUTPUTS,
    PARTS,
    Examine,
    Examined,
    Inspect,
    Inspected,
    Situation,
    Start,
    Started,
)
from peft_regress.errors import InputError
from peft_regress.gate.paired_times import Estimate, estimate_ratio
from peft_regress.upgrades.timing import time_block
from peft_regress.workers.pair import Pair
from peft_regress.workers.pool import Environment, UnusableEnvironmentError
from peft_regress.workers.process import WorkerError, WorkerProcess

_WORKER: Final = "peft_fuzz.checklist.examining"
_PAIRS: Final = 20
_BLOCK_STEPS: Final = 6


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


@dataclass(frozen=True, kw_only=True)
class Result:
    """What both sides give in one situation."""

    situation: Situation
    base: Examined | str
    """A string says why the worker gave no answer."""
    branch: Examined | str | None
    """None if the base has nothing to compare with."""
    found: Mapping[str, Difference] = field(default_factory=dict)
    """The difference of the outputs, by the names of `PARTS`."""

    @property
    def sides(self) -> tuple[Examined, Examined]:
        """What base and branch gave; nothing where there is no answer."""
        base, branch = (
            side if isinstance(side, Examined) else Examined() for side in (self.base, self.branch)
        )
        return base, branch


class Examination:
    """Both sides of a comparison, as a context manager: its workers are gone at the end."""

    def __init__(
        self, *, base: Path, branch: Path, method: str, time_limit: float, jobs: int
    ) -> None:
        """Take the interpreters of both sides; `time_limit` is the seconds of an answer."""
        # What keeps peft from being imported there is named before anything is compared.
        one, other = (Environment(python=python, libraries=("peft",)) for python in (base, branch))
        self._method = method
        self._pairs = [Pair(one, other, time_limit=time_limit) for _ in range(jobs)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        for pair in self._pairs:
            pair.close()

    def _stop(self) -> None:
        for pair in self._pairs:
            pair.stop()

    def inspect(self) -> tuple[Inspected, Inspected]:
        """Return what base and branch say of the method. Raises `UnusableEnvironmentError`."""
        found = []
        for number, side in enumerate(("base", "branch")):
            try:
                worker = self._pairs[0].worker(number)
                asked = Inspect(method=self._method)
                found.append(worker.ask(f"{_WORKER}:inspect", asked, Inspected))
            except (WorkerError, InputError) as error:
                raise UnusableEnvironmentError(f"the {side} cannot be used: {error}") from None
        base, branch = found
        return base, branch

    def packages(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return the packages of both sides."""
        base, branch = self._pairs[0].workers
        return base.packages, branch.packages

    def run(
        self, situations: Sequence[Situation], on_result: Callable[[Result], None]
    ) -> list[Result]:
        """Examine every situation on both sides, several at once; results are in their order."""
        free: queue.SimpleQueue[Pair] = queue.SimpleQueue()
        for pair in self._pairs:
            free.put(pair)

        def work(situation: Situation) -> Result:
            pair = free.get()
            try:
                return self._result(pair, situation)
            finally:
                free.put(pair)

        with ThreadPoolExecutor(len(self._pairs), thread_name_prefix="examining") as threads:
            running = [threads.submit(work, situation) for situation in situations]
            try:
                for done in as_completed(running):
                    on_result(done.result())
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise
        return [one.result() for one in running]

    def _result(self, pair: Pair, situation: Situation) -> Result:
        with tempfile.TemporaryDirectory(
            prefix="peft-regress-", ignore_cleanup_errors=True
        ) as name:

            def examined(side: int, *, is_base: bool) -> Examined | str:
                """Return a side's answer, or why there is none; its worker is started again."""
                worker = pair.worker(side)
                request = Examine(situation=situation, folder=name, is_base=is_base)
                try:
                    return worker.ask(f"{_WORKER}:examine", request, Examined)
                except WorkerError as error:
                    worker.kill()
                    return str(error).removeprefix(f"{worker.interpreter}: ")

            base = examined(0, is_base=True)
            if isinstance(base, str) or base.unavailable:
                return Result(situation=situation, base=base, branch=None)
            # If there is no checkpoint to load: does the branch make one?
            is_refused = "adapting" in base.failures
            branch = examined(1, is_base=is_refused)
            was_compared = not is_refused and not isinstance(branch, str)
            found = differences(Path(name)) if was_compared else {}
            return Result(situation=situation, base=base, branch=branch, found=found)

    def time(self, situation: Situation) -> Estimate | str:
        """Time steps of both sides in turns; a string says why they could not be timed."""
        pair = self._pairs[0]
        try:
            for worker in pair.workers:
                worker.ask(f"{_WORKER}:Trainer.start", Start(situation=situation), Started)
                _median(worker)  # to warm up
            turns = [bool(number % 2) for number in range(_PAIRS)]
            return estimate_ratio(pair.in_turns(turns, _median), confidence=0.95)
        except (WorkerError, InputError) as error:
            return str(error)


def _median(worker: WorkerProcess) -> float:
    return median_high(time_block(worker, _BLOCK_STEPS, stepper=f"{_WORKER}:Trainer"))


# --- Outputs --------------------------------------------------------------------------------------


def differences(folder: Path) -> dict[str, Difference]:
    """Compare the outputs that both sides have written into a folder."""
    base = load_file(folder / OUTPUTS.format("base"))
    branch = load_file(folder / OUTPUTS.format("branch"))
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
