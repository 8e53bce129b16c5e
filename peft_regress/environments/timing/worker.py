"""Train blocks of steps of one case on request.

Started as `python -m peft_regress.environments.timing.worker`.
"""

from __future__ import annotations

import gc
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.environments.timing.messages import (
    PROTOCOL,
    Answer,
    Block,
    Prepare,
    Prepared,
    Request,
    Restart,
    Restarted,
    Timed,
)
from peft_regress.environments.worker.serve import private_streams, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from peft_regress.catalogue.tasks.protocol import TaskData
    from peft_regress.measure.recipe import Recipe

__all__ = ["answer_requests", "main"]


def main() -> None:
    """Answer requests until there are no more."""
    answer_requests(*private_streams())


def answer_requests(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer the requests of one stream on another."""
    trainer = _Trainer()
    serve(
        requests,
        answers,
        protocol=PROTOCOL,
        request_type=Request,
        answer=lambda request: [trainer.answer(request)],
    )


class _Trainer:
    """The case that is being timed; torch is imported with it."""

    def __init__(self) -> None:
        self._recipe: Recipe
        self._data: TaskData
        self._steps: Iterator[tuple[float, float]] = iter(())

    def answer(self, request: Request) -> Answer:
        """Do what is asked."""
        if isinstance(request, Prepare):
            return self._prepare(request)
        if isinstance(request, Restart):
            return self._restart(request)
        return self._time(request)

    def _prepare(self, request: Prepare) -> Prepared:
        from peft_regress.catalogue.matrix import parse_case_id
        from peft_regress.measure import Recipe, define

        self._recipe = Recipe.of(parse_case_id(request.case), Path(request.baselines))
        definition = define(self._recipe)
        self._data = self._recipe.load_data()
        return Prepared(definition=definition)

    def _restart(self, request: Restart) -> Restarted:
        # What a model has become shows in its times: rates fall, projections are refreshed.
        self._steps = self._recipe.steps(self._data, seed=request.seed)
        # The model before this one is in cycles; collected now, and not in the middle of a step.
        gc.collect()
        return Restarted()

    def _time(self, block: Block) -> Timed:
        from peft_regress.measure.training import single_thread

        with single_thread():
            taken = list(islice(self._steps, block.steps))
        return Timed(step_seconds=[seconds for _, seconds in taken])


if __name__ == "__main__":
    main()
