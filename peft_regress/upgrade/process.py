"""The worker that measures, as its crew sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_regress.upgrade.messages import (
    PROTOCOL,
    Answer,
    Import,
    Imported,
    Measure,
    Measured,
    Started,
)
from peft_regress.workers.process import WorkerError, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from peft_regress.records import Case, Record

__all__ = ["CaseLostError", "MeasuringWorker"]


class CaseLostError(WorkerError):
    """A worker that died, hung or babbled after it had begun to measure a case."""

    def __init__(self, problem: str, *, definition: str, timed_out: bool) -> None:
        self.problem = problem
        self.definition = definition
        self.timed_out = timed_out
        super().__init__(problem)


class MeasuringWorker(WorkerProcess):
    """A process that measures cases on request."""

    module = "peft_regress.upgrade.worker"
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
        except WorkerError as error:
            # It stands in a record, where the place of an interpreter says nothing.
            problem = str(error).removeprefix(f"{self.interpreter}: ")
            raise CaseLostError(
                problem, definition=begun.definition, timed_out=self.is_alive
            ) from None
        if not isinstance(answer, Measured) or answer.record.case != case:
            raise self._unexpected(answer)
        return answer.record
