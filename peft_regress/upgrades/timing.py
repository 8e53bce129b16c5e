"""Time each case in two interpreters that take turns, and judge the pairs of times."""

import contextlib
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peft_regress.cases import Case
from peft_regress.catalogue.sources import require_sources
from peft_regress.errors import InputError, PeftRegressError
from peft_regress.gate import paired_times
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.project.project import Project
from peft_regress.runner.measurer import MEASURER, CaseRequest
from peft_regress.workers.pool import Environment, Seat
from peft_regress.workers.worker import WorkerError, WorkerProcess

_SEEDS: Final = (0, 1)  # a fine-tuning each, of two blocks

BLOCK_STEPS: Final = 11
"""Steps of a block: half of the brief fine-tuning. The first one finds the caches cold and is left
out of the block's median. With turns of single steps, the ratios on a busy machine vary ten times
as much, and a step that is 10 % slower appears as 13 to 20 % slower."""

LAUNCH_PAIRS: Final = 4
"""Pairs of blocks of each start of the workers. A process can be up to 3 % slower than an equal one
for as long as it lives, depending on where its code and memory lie, so many pairs of one start say
little more than a few. With two, one disturbed block spoils the median of a launch."""

TIME_LIMIT_SECONDS: Final = 300


@dataclass(frozen=True, kw_only=True)
class _Plan:
    interpreters: tuple[str, str]
    project: Project
    baselines: Path
    launches: int
    time_limit: float
    confidence: float


def time_cases(  # noqa: PLR0913  (each is one setting)
    cases: Sequence[Case],
    *,
    base: str,
    candidate: str,
    project: Project,
    baselines: Path,
    pairs: int = DEFAULT_POLICY.time_pairs,
    time_limit: float = TIME_LIMIT_SECONDS,
    on_result: Callable[[paired_times.CaseTimes], None] = lambda _: None,
) -> paired_times.TimingRun:
    """Time each case in both interpreters.

    `base` and `candidate` are paths of Python interpreters with peft_regress installed;
    `baselines` is the folder with `sources/`; `pairs` are rounded up to whole launches;
    `time_limit` is the seconds that one block, or the start of a worker, may take; `on_result` gets
    each result when it is made. A case that cannot be timed is a result with a problem. Raises
    `InterpreterError` for one that cannot be used, `InputError` for too few pairs to show anything.
    """
    plan = _Plan(
        interpreters=(base, candidate),
        project=project,
        baselines=baselines,
        launches=math.ceil(pairs / LAUNCH_PAIRS),
        time_limit=time_limit,
        confidence=paired_times.confidence_of_each(len(cases)),
    )
    fewest = paired_times.fewest_launches(plan.confidence)
    if plan.launches < fewest:
        raise InputError(
            f"{pairs} pairs give no interval of {100 * plan.confidence:.4g} %, which each of "
            f"{len(cases)} cases needs: --pairs {LAUNCH_PAIRS * fewest} is the least"
        )
    require_sources(baselines, cases)
    packages, found = [], []
    for interpreter in plan.interpreters:
        with contextlib.closing(WorkerProcess(interpreter, time_limit=time_limit)) as worker:
            packages.append(worker.packages)
    for case in cases:
        found.append(_timed_case(case, plan))
        on_result(found[-1])
    return paired_times.TimingRun(
        base=base,
        candidate=candidate,
        cases=tuple(found),
        base_packages=packages[0],
        candidate_packages=packages[1],
    )


def _timed_case(case: Case, plan: _Plan) -> paired_times.CaseTimes:
    """Time one case in fresh processes; an error is its result."""
    draw = random.Random(case.id)  # noqa: S311  (an order, not a secret)
    try:
        orders = [draw.choice((True, False)) for _ in range(plan.launches)]
        launches = [_launch(case, plan, base_first=order) for order in orders]
        estimate = paired_times.estimate_ratio(launches, confidence=plan.confidence)
    except _DefinitionDiffersError as error:
        return paired_times.CaseTimes(id=case.id, verdict="incomparable", problem=str(error))
    except (WorkerError, InputError) as error:
        return paired_times.CaseTimes(id=case.id, verdict="failed", problem=str(error))
    pairs = tuple(pair for launch in launches for pair in launch)
    return paired_times.CaseTimes(
        id=case.id, verdict=paired_times.judge_ratio(estimate), pairs=pairs, estimate=estimate
    )


class _DefinitionDiffersError(PeftRegressError):
    """The two sides measure different things."""


def _launch(case: Case, plan: _Plan, *, base_first: bool) -> list[paired_times.TimePair]:
    """Start both workers and let them compute in turns, one at a time.

    Both sides go first equally often, which cancels a drift of the machine. Which one begins is
    drawn: what the machine does at regular times must not always meet the same side.
    """
    with contextlib.ExitStack() as stack:
        base, candidate = workers = [_started(stack, one, plan) for one in plan.interpreters]
        storage, folder = str(plan.baselines.absolute()), plan.project.folder
        request = CaseRequest(case=case.id, baselines=storage, folder=folder)
        before, after = (worker.ask(f"{MEASURER}.prepare", request, str) for worker in workers)
        if before != after:
            raise _DefinitionDiffersError(
                f"not comparable: the definition differs, {before[:15]} in "
                f"{plan.interpreters[0]} and {after[:15]} in {plan.interpreters[1]}; install the "
                "same peft_regress in both"
            )
        for worker in workers:
            worker.ask(f"{MEASURER}.restart", _SEEDS[0], type(None))
            _time_block(worker)  # to warm up
        times: list[paired_times.TimePair] = []
        for seed in _SEEDS:
            for worker in workers:
                worker.ask(f"{MEASURER}.restart", seed, type(None))
            for is_first in (base_first, not base_first):
                turns = workers if is_first else workers[::-1]
                seconds = {one: statistics.median(_time_block(one)[1:]) for one in turns}
                times.append((seconds[base], seconds[candidate]))
        return times


def _started(stack: contextlib.ExitStack, interpreter: str, plan: _Plan) -> WorkerProcess:
    """Start a worker, which ends with the stack."""
    scratch = tempfile.TemporaryDirectory(prefix="peft-regress-", ignore_cleanup_errors=True)
    folder = Path(stack.enter_context(scratch))
    seat = stack.enter_context(contextlib.closing(Seat(folder, time_limit=plan.time_limit)))
    return seat.worker(Environment(python=Path(interpreter)))


def _time_block(worker: WorkerProcess) -> list[float]:
    """Let a worker take a block of steps, and return the seconds of each."""
    return worker.ask(f"{MEASURER}.time_steps", BLOCK_STEPS, list[float])
