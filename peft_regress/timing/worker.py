"""Train blocks of steps of one case on request: `python -m peft_regress.timing.worker`.

Requests come on standard input and answers go to standard output, a line each. A library that
prints, from Python or from C, writes to standard error: it must not break into an answer. The
worker ends with its standard input, so that it never outlives who started it.
"""

from __future__ import annotations

import gc
import os
import sys
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from peft_regress.environment import installed_packages
from peft_regress.timing.messages import (
    PROTOCOL,
    Answer,
    Block,
    Hello,
    Prepare,
    Prepared,
    Refused,
    Request,
    Restart,
    Restarted,
    Timed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft_regress.pairing import Pairing
    from peft_regress.tasks.protocol import TaskData

__all__ = ["main", "serve"]


def main() -> None:
    """Answer requests until there are no more."""
    requests, answers = _private_streams()
    serve(requests, answers)


def _private_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Take standard input and output away from everyone else."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return requests, answers


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Say hello, then answer each request in turn."""

    def say(answer: Answer) -> None:
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()

    # A start-up file may have left a line unfinished.
    answers.write(b"\n")
    say(Hello(protocol=PROTOCOL, packages=installed_packages()))
    trainer = _Trainer()
    for line in requests:
        say(trainer.answer(msgspec.json.decode(line, type=Request)))


class _Trainer:
    """The case that is being timed; torch is imported with it."""

    def __init__(self) -> None:
        self._pairing: Pairing
        self._data: TaskData
        self._steps: Iterator[tuple[float, float]] = iter(())

    def answer(self, request: Request) -> Answer:
        """Do what is asked; whatever goes wrong is an answer too."""
        try:
            if isinstance(request, Prepare):
                return self._prepare(request)
            if isinstance(request, Restart):
                return self._restart(request)
            return self._time(request)
        except Exception as error:  # noqa: BLE001  (what a library raises is the case's state)
            message = str(error).encode("utf-8", "backslashreplace").decode().strip()
            return Refused(error=f"{type(error).__name__}: {message or 'no message'}")

    def _prepare(self, request: Prepare) -> Prepared:
        from peft_regress.matrix import parse_case_id
        from peft_regress.measure import define
        from peft_regress.pairing import Pairing

        case = parse_case_id(request.case)
        baselines = Path(request.baselines)
        definition = define(case, baselines)
        self._pairing = Pairing.of(case, baselines)
        self._data = self._pairing.load_data()
        return Prepared(definition=definition)

    def _restart(self, request: Restart) -> Restarted:
        # What a model has become shows in its times: rates fall, projections are refreshed.
        self._steps = self._pairing.steps(self._data, seed=request.seed)
        # The model before this one is in cycles; collected now, and not in the middle of a step.
        gc.collect()
        return Restarted()

    def _time(self, block: Block) -> Timed:
        from peft_regress.finetune import single_thread

        with single_thread():
            taken = list(islice(self._steps, block.steps))
        return Timed(step_seconds=[seconds for _, seconds in taken])


if __name__ == "__main__":
    main()
