"""The worker that times, as the conductor sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_regress.environments.timing.messages import (
    PROTOCOL,
    Answer,
    Block,
    Prepare,
    Prepared,
    Restart,
    Restarted,
    Timed,
)
from peft_regress.environments.worker.process import WorkerProcess

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TimingWorker"]


class TimingWorker(WorkerProcess):
    """A process that trains blocks of steps on request."""

    module = "peft_regress.environments.timing.worker"
    protocol = PROTOCOL
    answers = Answer

    def prepare(self, case: str, *, baselines: Path) -> str:
        """Get ready for a case and return its definition; raises `WorkerError`."""
        answer = self._ask(Prepare(case=case, baselines=str(baselines.absolute())))
        if not isinstance(answer, Prepared):
            raise self._unexpected(answer)
        return answer.definition

    def restart(self, *, seed: int) -> None:
        """Begin the brief fine-tune of a seed anew; raises `WorkerError`."""
        answer = self._ask(Restart(seed=seed))
        if not isinstance(answer, Restarted):
            raise self._unexpected(answer)

    def time_block(self, *, steps: int) -> list[float]:
        """Take its next steps and return the seconds of each; raises `WorkerError`."""
        answer = self._ask(Block(steps=steps))
        if not isinstance(answer, Timed) or len(answer.step_seconds) != steps:
            raise self._unexpected(answer)
        return answer.step_seconds
