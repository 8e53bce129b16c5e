"""Judge one run by another: two records and a policy -> verdicts, findings, attribution. Pure."""

from peft_regress.gate.judge import (
    FAILING,
    INCOMPLETE,
    UNACCEPTED,
    VERDICTS,
    CaseVerdict,
    Observation,
    Reason,
    RunVerdict,
    Verdict,
    judge,
    judge_case,
    observations_of,
)

__all__ = [
    "FAILING",
    "INCOMPLETE",
    "UNACCEPTED",
    "VERDICTS",
    "CaseVerdict",
    "Observation",
    "Reason",
    "RunVerdict",
    "Verdict",
    "judge",
    "judge_case",
    "observations_of",
]
