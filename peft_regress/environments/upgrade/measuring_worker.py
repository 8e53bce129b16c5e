"""The worker that measures, as its crew sees it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from peft_regress.environments.upgrade.messages import (
    PROTOCOL,
    Answer,
    Failed,
    Import,
    Imported,
    Measure,
    Measured,
    Started,
)
from peft_regress.environments.worker.messages import Refused
from peft_regress.environments.worker.process import WorkerError, WorkerProcess, WorkerTimeoutError
from peft_regress.runs.schema import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from peft_regress.cases import Case
    from peft_regress.runs.schema import Record

__all__ = ["CaseLostError", "MeasuringWorker"]

_FOLDERS: Final = re.compile(r"(?<![\w.:/])/(?:[^\s'\":/]+/)+")
"""Of a path in a message: what differs from one machine, and one environment, to the next."""


class CaseLostError(WorkerError):
    """A worker that died, hung or babbled after it had begun to measure a case.

    `failure` says so as the case's record does, without a path.
    """

    def __init__(self, failure: Failure, *, definition: str) -> None:
        self.failure = failure
        self.definition = definition
        super().__init__(f"{failure.type}: {failure.message}")


class MeasuringWorker(WorkerProcess):
    """A process that measures cases on request."""

    module = "peft_regress.environments.upgrade.worker"
    protocol = PROTOCOL
    answers = Answer

    def import_modules(self, names: Sequence[str]) -> Imported:
        """Import modules there; raises `WorkerError` with what Python said."""
        answer = self._ask(Import(modules=list(names)))
        if not isinstance(answer, Imported):
            raise self._unexpected(answer)
        return answer

    def measure(
        self, case: Case, *, baselines: Path, trains: bool, keep_adapters: Path | None
    ) -> Record:
        """Measure a case there.

        Raises `CaseLostError` where it had begun and no record came, `WorkerError` where the
        worker refuses the case or is gone.
        """
        request = Measure(
            case=case.id,
            baselines=str(baselines.absolute()),
            trains=trains,
            keep_adapters=None if keep_adapters is None else str(keep_adapters.absolute()),
        )
        begun = self._ask(request)
        if not isinstance(begun, Started):
            raise self._unexpected(begun)
        try:
            answer = self._next_answer()
        except WorkerTimeoutError:
            failure = Failure(
                type="TimeoutError", message=f"no result within {self._time_limit:g} s"
            )
        except WorkerError as error:
            failure = self._lost(error)
        else:
            if isinstance(answer, Measured) and answer.record.case == case:
                return answer.record
            if isinstance(answer, Refused):
                raise self._unexpected(answer)
            is_told = isinstance(answer, Failed)
            failure = answer.failure if is_told else self._lost(self._unexpected(answer))
        raise CaseLostError(failure, definition=begun.definition)

    def _lost(self, error: WorkerError) -> Failure:
        problem = str(error).removeprefix(f"{self.interpreter}: ")
        return Failure(type="WorkerLost", message=_FOLDERS.sub("", problem))
