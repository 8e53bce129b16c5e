"""Let the workers of two interpreters take turns, case by case, and judge the pairs of times."""

from __future__ import annotations

import math
import random
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from peft_regress.environments.timing.timing_worker import TimingWorker
from peft_regress.environments.worker.process import WorkerError
from peft_regress.errors import InputError, PeftRegressError
from peft_regress.gate.paired_times import (
    CaseTimes,
    TimingRun,
    confidence_of_each,
    estimate_ratio,
    fewest_pairs,
    judge_ratio,
)
from peft_regress.gate.policy import DEFAULT_POLICY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from peft_regress.cases import Case
    from peft_regress.gate.paired_times import TimePair
    from peft_regress.gate.policy import Policy

__all__ = ["BLOCK_STEPS", "LAUNCHES", "TIME_LIMIT_SECONDS", "time_cases", "turns"]

_SEEDS: Final = (0, 1, 2)
_BLOCKS: Final = 2  # of a fine-tune

BLOCK_STEPS: Final = 11
"""Steps of a block: half of the brief fine-tune. The first, which finds the caches cold, is left
out of the block's median. Turns of single steps were tried: on a busy machine their ratios vary ten
times as much, and a step 10 % slower appears as one of 13 to 20 %."""

LAUNCHES: Final = 3
"""How often a case's workers are started anew: by where its code and memory come to lie, one and
the same process can be slower than another by up to 3 % for as long as it lives."""

TIME_LIMIT_SECONDS: Final = 300


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How each case is timed."""

    interpreters: tuple[str, str]
    baselines: Path
    pairs: int
    time_limit: float
    confidence: float
    policy: Policy


def time_cases(  # noqa: PLR0913  (each is one setting)
    cases: Sequence[Case],
    *,
    base: str,
    candidate: str,
    baselines: Path,
    pairs: int | None = None,
    time_limit: float = TIME_LIMIT_SECONDS,
    policy: Policy = DEFAULT_POLICY,
    tell: Callable[[CaseTimes], None] = lambda _: None,
) -> TimingRun:
    """Time each case in both interpreters, and tell each result as it comes.

    `base` and `candidate` are paths of Python interpreters with peft_regress installed;
    `baselines` is the folder with `sources/`; `time_limit` is seconds, of one block or the start
    of a worker. A case that cannot be timed is a result with its problem. Raises
    `InterpreterError` where an interpreter cannot be used at all, `InputError` where there is no
    case, or so few pairs that they can show nothing.
    """
    if not cases:
        msg = "there is no case to time"
        raise InputError(msg)
    plan = _Plan(
        interpreters=(base, candidate),
        baselines=baselines,
        pairs=policy.time_pairs if pairs is None else pairs,
        time_limit=time_limit,
        confidence=confidence_of_each(len(cases), policy=policy),
        policy=policy,
    )
    fewest = fewest_pairs(plan.confidence)
    if plan.pairs < fewest:
        msg = (
            f"{plan.pairs} pairs give no interval of {100 * plan.confidence:.4g} %, which each of "
            f"{len(cases)} cases needs: --pairs {fewest} is the least"
        )
        raise InputError(msg)
    packages = [_packages_of(interpreter, time_limit) for interpreter in plan.interpreters]
    found = []
    for case in cases:
        found.append(_timed_case(case, plan))
        tell(found[-1])
    return TimingRun(
        base=base,
        candidate=candidate,
        cases=tuple(found),
        base_packages=packages[0],
        candidate_packages=packages[1],
    )


def turns(pairs: int, *, draw: random.Random) -> list[bool]:
    """Return, for each pair, whether the base goes first: of two pairs it does so once.

    So a drift of the machine cancels. Which of the two comes first is drawn, so that nothing
    that the machine does at regular times meets the same side each time.
    """
    order: list[bool] = []
    while len(order) < pairs:
        first = draw.choice((True, False))
        order += (first, not first)
    return order[:pairs]


def _packages_of(interpreter: str, time_limit: float) -> dict[str, str]:
    with TimingWorker(interpreter, time_limit=time_limit) as worker:
        return worker.packages


def _timed_case(case: Case, plan: _Plan) -> CaseTimes:
    """Time one case in fresh processes; what goes wrong is its result."""
    draw = random.Random(case.id)  # noqa: S311  (an order, no secret)
    order = turns(plan.pairs, draw=draw)
    # An even number a launch, so that in each one both sides go first as often.
    each = 2 * math.ceil(plan.pairs / LAUNCHES / 2)
    times: list[TimePair] = []
    try:
        while len(times) < plan.pairs:
            times += _launch(case, plan, order[len(times) : len(times) + each])
        estimate = estimate_ratio(times, confidence=plan.confidence)
    except _OtherDefinitionError as error:
        return CaseTimes(id=case.id, verdict="incomparable", problem=str(error))
    except (WorkerError, InputError) as error:
        return CaseTimes(id=case.id, verdict="failed", problem=str(error))
    verdict = judge_ratio(estimate, policy=plan.policy)
    return CaseTimes(id=case.id, verdict=verdict, pairs=tuple(times), estimate=estimate)


class _OtherDefinitionError(PeftRegressError):
    """The two sides do not measure the same thing."""


def _launch(case: Case, plan: _Plan, order: Sequence[bool]) -> list[TimePair]:
    """Start both workers and let them take turns; only one of them computes at a time."""
    with ExitStack() as stack:
        base, candidate = (
            stack.enter_context(TimingWorker(interpreter, time_limit=plan.time_limit))
            for interpreter in plan.interpreters
        )
        before, after = (
            worker.prepare(case.id, baselines=plan.baselines) for worker in (base, candidate)
        )
        if before != after:
            msg = (
                f"it is not the same case in {base.interpreter} (definition {before[:15]}) and in "
                f"{candidate.interpreter} ({after[:15]}): install the same peft_regress in both"
            )
            raise _OtherDefinitionError(msg)
        _restart(base, candidate, seed=_SEEDS[0])
        for worker in (base, candidate):
            worker.time_block(steps=BLOCK_STEPS)  # warms up, and is not looked at
        times = []
        for number, base_first in enumerate(order):
            if number % _BLOCKS == 0:
                _restart(base, candidate, seed=_SEEDS[number // _BLOCKS % len(_SEEDS)])
            times.append(_pair(base, candidate, base_first=base_first))
        return times


def _restart(base: TimingWorker, candidate: TimingWorker, *, seed: int) -> None:
    for worker in (base, candidate):
        worker.restart(seed=seed)


def _pair(base: TimingWorker, candidate: TimingWorker, *, base_first: bool) -> TimePair:
    seconds = {
        worker: statistics.median(worker.time_block(steps=BLOCK_STEPS)[1:])
        for worker in ((base, candidate) if base_first else (candidate, base))
    }
    return seconds[base], seconds[candidate]
