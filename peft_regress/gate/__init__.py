"""Judge one run by another: both sides -> one `Comparison`. Pure."""

from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.judge import judge, judge_case
from peft_regress.gate.verdicts import (
    FAILING,
    INCOMPLETE,
    UNACCEPTED,
    VERDICTS,
    CaseVerdict,
    Observation,
    Reason,
    Verdict,
    observations_of,
)

__all__ = [
    "FAILING", "INCOMPLETE", "UNACCEPTED", "VERDICTS", "CaseVerdict", "Comparison", "Invocation",
    "Observation", "Reason", "Verdict", "judge", "judge_case", "observations_of",
]  # fmt: skip
