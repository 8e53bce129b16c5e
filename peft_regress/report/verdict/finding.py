"""One finding in sentences, which all reports share: a change with one cause in many cases."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Final

from peft_regress.metrics import BATCH_SUFFIX, format_change
from peft_regress.report.sentences import reason_cells
from peft_regress.report.verdict.case_text import module_lines
from peft_regress.report.verdict.to_json import encode_reason
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from peft_regress.gate.findings import Finding, Member
    from peft_regress.gate.judge import Observation

__all__ = [
    "case_set",
    "encode_finding",
    "example_lines",
    "finding_details",
    "finding_title",
]

_MOST_REASONS: Final = 4
_LONGEST_ERROR: Final = 300
_LONGEST_SET: Final = 2000
_LONGEST_WORD: Final = 50
_HOLES: Final = {
    "missing": "expected, and no record came",
    "new": "no accepted baseline holds it",
    "definition": "defined otherwise than in what it is compared with",
}


def finding_title(finding: Finding) -> str:
    """Return what moved and by how much, in one sentence."""
    cause = finding.cause
    if cause.kind == "coverage":
        return _HOLES.get(cause.what, f"{clean(cause.what)} cannot be compared")
    if cause.kind == "status":
        return _status_title(finding.example)
    if cause.kind == "invariant":
        reason = finding.example.reasons[0]
        old, new = (
            str(value).lower() if value is not None else "unchecked"
            for value in (reason.old, reason.new)
        )
        return f"invariant {clean(cause.what)}: {old} -> {new}"
    moved = finding.ranges()
    leading = [name for name in moved if not name.endswith(BATCH_SUFFIX)][:2] or list(moved)[:2]
    if cause.what in moved:
        leading = [cause.what, *(name for name in leading if name != cause.what)][:2]
    told = ", ".join(f"{name} {_range(moved[name], name)}" for name in leading)
    return told or ", ".join(clean(reason.title) for reason in finding.example.reasons)


def finding_details(finding: Finding) -> list[str]:
    """Return where the change is, as far as it is known, and what moved with it."""
    cause = finding.cause
    lines = []
    if cause.kind == "costs" and len(cause.where) > 1:
        part, operator = cause.where[:2]
        lines.append(f"where: {clean(part)}, {clean(operator)}")
        if cause.base_runs:
            runs = abs(cause.base_runs)
            more = "more" if cause.base_runs > 0 else "less"
            times = f"one run {more}" if runs == 1 else f"{runs} runs {more}"
            lines.append(f"in each layer as much as {times} of its base layer's operator")
    told = finding_title(finding)
    ranges = finding.ranges()
    others = [
        f"{name} {_range(pair, name)}"
        for name, pair in ranges.items()
        if not told.startswith(f"{name} ")
        and f", {name} " not in told
        # At batch 32 it is news only where it did not move at batch 1.
        and name.removesuffix(BATCH_SUFFIX) not in ranges.keys() - {name}
    ]
    if others:
        lines.append(f"with it: {', '.join(others)}")
    return lines


def case_set(ids: Sequence[str]) -> str:
    """Write ids as briefly as they can be: `{shift,unseen}/dora-r4/{resnet18,mobilenet_v2}`.

    Ids that are no such product are listed.
    """
    parts = {tuple(name.split("/")) for name in ids}
    columns = [sorted(set(column)) for column in zip(*parts, strict=False)]
    if set(product(*columns)) != parts:
        return " ".join(clean(name) for name in sorted(ids))
    named = [[clean(name) for name in column] for column in columns]
    shown = (column[0] if len(column) == 1 else f"{{{','.join(column)}}}" for column in named)
    brief = clean("/".join(shown), longest=_LONGEST_SET)
    # Where it fits no line it must have places to break it at.
    return brief if len(brief) <= _LONGEST_WORD else brief.replace(",", ", ")


def example_lines(
    finding: Finding, references: Mapping[str, Observation], observed: Mapping[str, Observation]
) -> list[str]:
    """Return the numbers of a finding's example, with the modules behind each change.

    None of an invariant, a state or a hole, of which the title says everything.
    """
    if finding.cause.kind in {"invariant", "status", "coverage"}:
        return []
    member = finding.example
    old, new = references.get(member.case), observed.get(member.case)
    lines = []
    at_one = {reason.metric for reason in member.reasons}
    shown = [
        reason
        for reason in member.reasons
        if reason.metric.removesuffix(BATCH_SUFFIX) not in at_one - {reason.metric}
    ]
    for reason in shown[:_MOST_REASONS]:
        metric, before, after, change, bound = reason_cells(reason)
        against = f" (bound {bound})" if bound else ""
        lines.append(f"{metric}: {before} -> {after}  {change}{against}".rstrip())
        lines += [f"    {line}" for line in module_lines(reason, old, new)]
    left = len(member.reasons) - min(len(shown), _MOST_REASONS)
    if left > 0:
        lines.append(f"and {left} more metrics")
    return lines


def encode_finding(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON values."""
    return {
        "verdict": finding.verdict,
        "title": finding_title(finding),
        "kind": finding.cause.kind,
        "what": finding.cause.what,
        "where": list(finding.cause.where),
        "base_runs": finding.cause.base_runs,
        "cases": list(finding.cases),
        "example": finding.example.case,
        "relative_changes": {
            name: {"smallest": low, "largest": high}
            for name, (low, high) in finding.ranges().items()
        },
        "reasons": [encode_reason(reason) for reason in finding.example.reasons],
    }


def _status_title(member: Member) -> str:
    reason = next(reason for reason in member.reasons if reason.metric == "status")
    old, new = (clean(str(value), longest=_LONGEST_ERROR) for value in (reason.old, reason.new))
    return f"{old} -> {new}"


def _range(pair: tuple[float, float], metric: str) -> str:
    if metric == "accuracy":
        low, high = (f"{100 * value:+.1f} points" for value in pair)
    else:
        low, high = (format_change(value) for value in pair)
    return low if low == high else f"{low} to {high}"
