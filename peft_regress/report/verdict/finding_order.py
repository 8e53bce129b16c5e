"""Which findings fail a run, which are holes in it, and which are better than the baseline."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from peft_regress.gate.judge import FAILING, INCOMPLETE, UNACCEPTED, VERDICTS
from peft_regress.metrics import BATCH_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from peft_regress.gate.findings import Finding, Member
    from peft_regress.gate.judge import Reason, Verdict

__all__ = ["SortedFindings", "leading_reason", "sort_findings"]


class SortedFindings(NamedTuple):
    """Findings by what they mean for the run; every case that fails is in one of `failing`."""

    failing: tuple[Finding, ...]
    holes: tuple[Finding, ...]
    better: tuple[Finding, ...]


def sort_findings(findings: Iterable[Finding], *, strict: bool = False) -> SortedFindings:
    """Sort findings; one with cases that fail and cases that do not becomes two.

    strict: what got better, and nobody has accepted, fails too.
    """
    failures = FAILING | UNACCEPTED if strict else FAILING
    failing, rest = [], []
    for finding in findings:
        fails = [member for member in finding.members if _fails(member, failures)]
        passes = [member for member in finding.members if not _fails(member, failures)]
        if fails:
            failing.append(_named_by_failures(_with(finding, fails), failures))
        if passes:
            rest.append(_with(finding, passes))
    return SortedFindings(
        failing=tuple(failing),
        holes=tuple(finding for finding in rest if finding.verdict in INCOMPLETE),
        better=tuple(finding for finding in rest if finding.verdict in UNACCEPTED),
    )


def leading_reason(finding: Finding, member: Member) -> Reason:
    """Return what tells a case's part in a finding best: of what fails, its cause's metric."""
    gravest = min((reason.verdict for reason in member.reasons), key=VERDICTS.index)
    reasons = [reason for reason in member.reasons if reason.verdict == gravest]
    for name in (finding.cause.what, f"{finding.cause.what}{BATCH_SUFFIX}"):
        for reason in reasons:
            if reason.metric == name:
                return reason
    return max(reasons, key=lambda reason: abs(reason.relative_change or 0.0))


def _fails(member: Member, failures: Collection[Verdict]) -> bool:
    return any(reason.verdict in failures for reason in member.reasons)


def _with(finding: Finding, members: Sequence[Member]) -> Finding:
    found = {reason.verdict for member in members for reason in member.reasons}
    verdict = min(found, key=VERDICTS.index, default=finding.verdict)
    return dataclasses.replace(finding, members=tuple(members), verdict=verdict)


def _named_by_failures(finding: Finding, failures: Collection[Verdict]) -> Finding:
    """Return the finding under the metric that fails, where its cause's metric got better."""
    moved = Counter(
        reason.metric
        for member in finding.members
        for reason in member.reasons
        if reason.verdict in failures
    )
    what = finding.cause.what
    if finding.cause.kind != "costs" or {what, f"{what}{BATCH_SUFFIX}"} & moved.keys():
        return finding
    (name, _), *_ = moved.most_common()
    return dataclasses.replace(finding, cause=finding.cause._replace(what=name))
