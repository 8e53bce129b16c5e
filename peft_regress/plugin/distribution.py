"""pytest-xdist: workers that die, and reports that nobody has handled yet."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from peft_regress.cases import Case
from peft_regress.runs.schema import Failure, Record, error_record


def crash_record(name: str, definition: str) -> Record:
    """Return the record of a case that has killed the process that measured it."""
    message = "the process that measured the case died of it: it crashed, exited or was killed"
    failure = Failure(type="WorkerCrash", message=message)
    return error_record(Case.parse(name), definition, failure)


def reports_on_the_way(config: pytest.Config) -> Iterator[pytest.TestReport]:
    """Yield the reports that workers sent before an interrupt, and that nobody has handled.

    pytest-xdist's controller reads them from a queue, and leaves it at an interrupt.
    """
    waiting = getattr(config.pluginmanager.getplugin("dsession"), "queue", None)
    while waiting is not None:
        try:
            event, content = waiting.get_nowait()
        except queue.Empty:
            return
        if event == "testreport":
            yield content["rep"]
