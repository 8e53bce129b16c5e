"""Let the workers of two interpreters take turns, case by case, and judge the pairs of times."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from peft_regress.paired_times import (
    CaseTimes,
    TimingRun,
    confidence_of_each,
    estimate_ratio,
    fewest_pairs,
    judge_ratio,
)
from peft_regress.errors import InputError
from peft_regress.policy import DEFAULT_POLICY
from peft_regress.timing.process import Worker, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from peft_regress.paired_times import TimePair
    from peft_regress.policy import Policy
    from peft_regress.records import Case

__all__ = ["BLOCK_STEPS", "TIME_LIMIT_SECONDS", "time_cases"]

BLOCK_STEPS: Final = 6
"""Steps of a block; the first, which allocates, is left out of its median."""

TIME_LIMIT_SECONDS: Final = 300.0
_SEED: Final = 0


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
    `baselines` is the folder with `sources/`; `time_limit` is seconds, of one block. A case that
    cannot be timed is a result with its problem. Raises `InterpreterError` where an interpreter
    cannot be used at all, `InputError` where so few pairs can show nothing.
    """
    confidence = confidence_of_each(len(cases), policy=policy)
    wanted = policy.time_pairs if pairs is None else pairs
    _check_pairs(wanted, cases=len(cases), confidence=confidence)
    packages = []
    for interpreter in (base, candidate):
        with Worker(interpreter, time_limit=time_limit) as worker:
            packages.append(worker.packages)
    found = []
    for case in cases:
        found.append(
            _timed_case(
                case,
                interpreters=(base, candidate),
                baselines=baselines,
                pairs=wanted,
                time_limit=time_limit,
                confidence=confidence,
                policy=policy,
            )
        )
        tell(found[-1])
    return TimingRun(
        base=base,
        candidate=candidate,
        cases=tuple(found),
        base_packages=packages[0],
        candidate_packages=packages[1],
    )


def _check_pairs(pairs: int, *, cases: int, confidence: float) -> None:
    fewest = fewest_pairs(confidence)
    if pairs < fewest:
        msg = (
            f"{pairs} pairs give no interval of {100 * confidence:.4g} %, which {cases} cases need "
            f"each: --pairs {fewest} is the least"
        )
        raise InputError(msg)


def _timed_case(  # noqa: PLR0913  (as above, for one case)
    case: Case,
    *,
    interpreters: tuple[str, str],
    baselines: Path,
    pairs: int,
    time_limit: float,
    confidence: float,
    policy: Policy,
) -> CaseTimes:
    """Time one case in fresh processes; what goes wrong is its result."""
    try:
        with ExitStack() as stack:
            base, candidate = (
                stack.enter_context(Worker(interpreter, time_limit=time_limit))
                for interpreter in interpreters
            )
            definitions = [w.prepare(case.id, baselines=baselines) for w in (base, candidate)]
            if definitions[0] != definitions[1]:
                problem = (
                    f"it is defined otherwise in {base.interpreter} ({definitions[0][:15]}) than in "
                    f"{candidate.interpreter} ({definitions[1][:15]}): install the same "
                    "peft_regress and data in both"
                )
                return CaseTimes(id=case.id, verdict="incomparable", problem=problem)
            times = tuple(_pairs(base, candidate, pairs=pairs))
            estimate = estimate_ratio(times, confidence=confidence)
    except (WorkerError, InputError) as error:
        return CaseTimes(id=case.id, verdict="failed", problem=str(error))
    verdict = judge_ratio(estimate, policy=policy)
    return CaseTimes(id=case.id, verdict=verdict, pairs=times, estimate=estimate)


def _pairs(base: Worker, candidate: Worker, *, pairs: int) -> Iterator[TimePair]:
    """Yield the times of one pair after the other, each side's first block left out."""
    for worker in (base, candidate):
        worker.time_block(seed=_SEED, steps=BLOCK_STEPS)
    for number, base_first in enumerate(turns(pairs)):
        seconds = {
            worker: worker.time_block(seed=number % 3, steps=BLOCK_STEPS)
            for worker in ((base, candidate) if base_first else (candidate, base))
        }
        yield seconds[base], seconds[candidate]


def turns(pairs: int, *, seed: int = _SEED) -> Iterator[bool]:
    """Yield whether the base goes first: of two pairs once it and once the candidate.

    So a drift of the machine cancels. Which of the two comes first is drawn, so that nothing
    that the machine does at regular times meets the same side each time.
    """
    draw = random.Random(seed)  # noqa: S311  (an order, no secret)
    for number in range(pairs):
        if number % 2 == 0:
            base_first = draw.random() < 0.5  # noqa: PLR2004  (one of two)
        else:
            base_first = not base_first
        yield base_first
