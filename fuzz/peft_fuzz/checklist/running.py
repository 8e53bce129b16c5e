"""Let a worker of the base and one of the branch take turns on each situation."""

from __future__ import annotations

import functools
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_high
from typing import Final, Self

from peft_fuzz.checklist.differences import Difference, differences
from peft_fuzz.checklist.messages import (
    Examine,
    Examined,
    Inspect,
    Inspected,
    Start,
    Started,
)
from peft_fuzz.checklist.situations import Situation
from peft_regress.errors import InputError
from peft_regress.gate.paired_times import Estimate, TimePair, estimate_ratio
from peft_regress.upgrades.measuring import UnusableEnvironmentError
from peft_regress.upgrades.timing.time_cases import time_block
from peft_regress.workers.environment_variables import variables
from peft_regress.workers.process import WorkerError, WorkerProcess
from peft_regress.workers.threads import RunningWorkers, in_threads

_MODULE: Final = "peft_fuzz.checklist.worker"
_PAIRS: Final = 20
_BLOCK_STEPS: Final = 6


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The two interpreters, and how their workers run."""

    base: Path
    branch: Path
    method: str
    time_limit: float
    jobs: int


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


@dataclass
class _Pair:
    """A worker of each side, started when it is needed."""

    sides: Sides
    folder: Path
    running: RunningWorkers
    workers: dict[str, WorkerProcess] = field(default_factory=dict)
    inspected: dict[str, Inspected] = field(default_factory=dict)

    def worker(self, side: str) -> WorkerProcess:
        """Return the worker of a side.

        Raises `UnusableEnvironmentError` if peft cannot be imported there.
        """
        known = self.workers.get(side)
        if known is not None:
            if known.is_alive:
                return known
            self.running.close(known)
        python = self.sides.base if side == "base" else self.sides.branch
        try:
            worker = WorkerProcess(
                # Not resolved: the link's target is the interpreter without the environment.
                str(python.absolute()),
                _MODULE,
                time_limit=self.sides.time_limit,
                folder=self.folder,
                environment=variables(),
                on_start=self.running.add,
            )
            self.workers[side] = worker
            self.inspected[side] = worker.call(Inspect(method=self.sides.method), Inspected)
        except (WorkerError, InputError) as error:
            raise UnusableEnvironmentError(f"the {side} cannot be used: {error}") from None
        return worker

    def examine(self, side: str, request: Examine) -> Examined | str:
        """Return a side's answer, or why there is none; a lost worker is started again later."""
        worker = self.worker(side)
        try:
            return worker.call(request, Examined)
        except WorkerError as error:
            worker.kill()
            return str(error).removeprefix(f"{worker.interpreter}: ")


class Examination:
    """Both sides of a comparison, as a context manager: its workers are gone at the end."""

    def __init__(self, sides: Sides) -> None:
        self._scratch = tempfile.TemporaryDirectory(
            prefix="peft-regress-", ignore_cleanup_errors=True
        )
        self._folder = Path(self._scratch.name)
        self._running = RunningWorkers()
        self._pairs = [_Pair(sides, self._folder, self._running) for _ in range(sides.jobs)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.stop()
        for pair in self._pairs:
            for worker in pair.workers.values():
                self._running.close(worker)
        self._scratch.cleanup()

    def inspect(self) -> tuple[Inspected, Inspected]:
        """Return what base and branch say of the method. Raises `UnusableEnvironmentError`."""
        pair = self._pairs[0]
        for side in ("base", "branch"):
            pair.worker(side)
        return pair.inspected["base"], pair.inspected["branch"]

    def packages(self, side: str) -> Mapping[str, str]:
        """Return the packages of a side."""
        return self._pairs[0].worker(side).packages

    def run(
        self, situations: Sequence[Situation], on_result: Callable[[Result], None]
    ) -> list[Result]:
        """Examine every situation on both sides, several at once; results are in their order."""
        waiting = iter(enumerate(situations))
        found: dict[int, Result] = {}
        lock = threading.Lock()

        def work(pair: _Pair) -> None:
            while not self._running.are_stopped:
                with lock:
                    number, situation = next(waiting, (None, None))
                if number is None or situation is None:
                    return
                result = self._result(pair, situation)
                with lock:
                    found[number] = result
                    on_result(result)

        works = [functools.partial(work, pair) for pair in self._pairs]
        in_threads(works, stop=self._running.stop, prefix="examining")
        return [found[number] for number in sorted(found)]

    def _result(self, pair: _Pair, situation: Situation) -> Result:
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as name:

            def examined(side: str, *, is_base: bool) -> Examined | str:
                request = Examine(situation=situation, folder=name, is_base=is_base)
                return pair.examine(side, request)

            base = examined("base", is_base=True)
            if isinstance(base, str) or base.unavailable:
                return Result(situation=situation, base=base, branch=None)
            # If there is no checkpoint to load: does the branch make one?
            is_refused = "adapting" in base.failures
            branch = examined("branch", is_base=is_refused)
            was_compared = not is_refused and not isinstance(branch, str)
            found = differences(Path(name)) if was_compared else {}
            return Result(situation=situation, base=base, branch=branch, found=found)

    def time(self, situation: Situation) -> Estimate | str:
        """Time steps of both sides in turns; a string says why they could not be timed."""
        base, branch = workers = [self._pairs[0].worker(side) for side in ("base", "branch")]
        try:
            for worker in workers:
                worker.call(Start(situation=situation), Started)
                time_block(worker, _BLOCK_STEPS)  # to warm up
            pairs: list[TimePair] = []
            for number in range(_PAIRS):
                order = workers if number % 2 else workers[::-1]
                seconds = {one: median_high(time_block(one, _BLOCK_STEPS)) for one in order}
                pairs.append((seconds[base], seconds[branch]))
            return estimate_ratio(pairs, confidence=0.95)
        except (WorkerError, InputError) as error:
            return str(error)
