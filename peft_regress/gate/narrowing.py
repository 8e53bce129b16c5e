"""Narrow a comparison to some of its cases, and keep count of the others. Pure."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

from peft_regress.gate.comparison import Comparison
from peft_regress.gate.findings import narrowed


def narrow(comparison: Comparison, pattern: str, *, complete: bool) -> Comparison:
    """Return the comparison of the cases that match a glob, each with the verdict that it has.

    `complete`: whether the run measured all of these that it was asked for. Reports say how many
    cases are left out and with which verdicts, so that no regression is hidden.
    """
    cases = tuple(case for case in comparison.cases if fnmatchcase(case.id, pattern))
    ids = {case.id for case in cases}
    counts = {
        verdict: count - sum(case.verdict == verdict for case in cases)
        for verdict, count in comparison.counts.items()
    }
    return replace(
        comparison,
        cases=cases,
        findings=narrowed(comparison.findings, ids),
        references={name: one for name, one in comparison.references.items() if name in ids},
        observed={name: one for name, one in comparison.observed.items() if name in ids},
        fronts=tuple(lost for lost in comparison.fronts if lost.case in ids),
        complete=complete,
        left_out={verdict: count for verdict, count in counts.items() if count},
        left_out_red=sum(case.id not in ids for case in comparison.failing),
        invocation=replace(comparison.invocation, only=pattern),
    )
