"""The end of a pytest run, as one value that is made once."""

from __future__ import annotations

from dataclasses import dataclass

from peft_regress.gate.comparison import Comparison
from peft_regress.runs.schema import Run


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What a run measured, what the gate makes of it, and what went wrong besides."""

    run: Run
    comparison: Comparison | None
    """None if the baselines cannot be read."""
    problems: tuple[str, ...] = ()
    """What fails the run besides verdicts: unreadable baselines, a file that was not written."""

    notes: tuple[str, ...] = ()
    """What else to say: of records that were taken, and of journals."""

    @property
    def failed(self) -> bool:
        """Whether the pytest run must fail."""
        return bool(self.problems) or self.comparison is None or bool(self.comparison.red)
