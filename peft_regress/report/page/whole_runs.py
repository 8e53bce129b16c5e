"""The runs of entries with their ledgers, each read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peft_regress.baselines.lines import Entry
from peft_regress.runs.schema import Run

WholeRun = Callable[[Entry], Run]


class WholeRuns:
    """Read entries with their ledgers when they are asked for, and keep them."""

    def __init__(self, entries: Sequence[Entry], whole_run: WholeRun) -> None:
        self._entries = entries
        self._whole_run = whole_run
        self._read: dict[int, Run] = {}

    def read(self, index: int) -> Run:
        """Return the run of an entry with its ledgers."""
        if index not in self._read:
            self._read[index] = self._whole_run(self._entries[index])
        return self._read[index]
