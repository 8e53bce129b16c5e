"""Which findings fail a run, which are not compared, and which are better than the baseline."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from peft_regress.gate.comparison import Comparison
from peft_regress.gate.findings import Finding, Member
from peft_regress.gate.verdicts import INCOMPLETE, UNACCEPTED, Reason, Verdict, gravest
from peft_regress.metrics import BATCH_SUFFIX


class SortedFindings(NamedTuple):
    """Findings by what they mean for the run."""

    failing: tuple[Finding, ...]
    """Every case that fails is in one of these."""
    incomplete: tuple[Finding, ...]
    """Cases that were not compared."""
    better: tuple[Finding, ...]


def sort_findings(comparison: Comparison) -> SortedFindings:
    """Sort findings; one with both failing and passing cases becomes two."""
    failures = comparison.failing_verdicts
    failing, rest = [], []
    for finding in comparison.findings:
        fails = tuple(member for member in finding.members if _fails(member, failures))
        passes = tuple(member for member in finding.members if not _fails(member, failures))
        if fails:
            part = dataclasses.replace(finding, members=fails)
            failing.append(_named_by_failures(part, failures))
        if passes:
            rest.append(dataclasses.replace(finding, members=passes))
    return SortedFindings(
        failing=tuple(failing),
        incomplete=tuple(finding for finding in rest if finding.verdict in INCOMPLETE),
        better=tuple(finding for finding in rest if finding.verdict in UNACCEPTED),
    )


def leading_reason(finding: Finding, member: Member) -> Reason:
    """Return the reason that shows a case's part in a finding best: the gravest, by its cause."""
    verdict = min((reason.verdict for reason in member.reasons), key=gravest)
    reasons = [reason for reason in member.reasons if reason.verdict == verdict]
    for name in (finding.cause.what, f"{finding.cause.what}{BATCH_SUFFIX}"):
        for reason in reasons:
            if reason.metric == name:
                return reason
    return max(reasons, key=lambda reason: abs(reason.relative_change or 0.0))


def _fails(member: Member, failures: Collection[Verdict]) -> bool:
    return any(reason.verdict in failures for reason in member.reasons)


def _named_by_failures(finding: Finding, failures: Collection[Verdict]) -> Finding:
    """Name a finding by the metric that fails if its cause's metric got better."""
    failed = Counter(
        reason.metric
        for member in finding.members
        for reason in member.reasons
        if reason.verdict in failures
    )
    what = finding.cause.what
    if finding.cause.strand != "costs" or {what, f"{what}{BATCH_SUFFIX}"} & failed.keys():
        return finding
    (name, _), *_ = failed.most_common()
    return dataclasses.replace(finding, cause=finding.cause._replace(what=name))
