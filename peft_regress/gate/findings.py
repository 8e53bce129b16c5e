"""Group changes in many cases by their cause: the same change in thirty cases is one finding.

Pure: no IO, no torch. The reasons of a case are split into strands, each with its own cause: its
status, its costs, each invariant, its function, its times. Strands of several cases are one finding
if they have an equal cause. The cause of costs is the part of a layer with most of the change.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from msgspec import UNSET

from peft_regress.gate import verdicts
from peft_regress.gate.attribution import explain_metric
from peft_regress.gate.verdicts import CaseVerdict, Observation, Reason, ReasonKind, Verdict
from peft_regress.metrics import BATCH_SUFFIX, METRICS, Kind

Strand = Literal[
    "status", "coverage", "budget", "fit", "costs", "trained", "inputs", "invariant", "function",
    "quality", "own",
]  # fmt: skip


class Cause(NamedTuple):
    """The cause that strands of several cases share."""

    strand: Strand
    what: str
    """The metric or invariant that shows it best, or the new status."""
    worse: bool | None
    """Whether it fails the gate; None if it cannot be compared."""
    where: tuple[str, ...] = ()
    """Part of a layer and operator, or method, or error."""
    base_runs: int | None = None
    """Of costs: how many extra runs of its base operator each layer costs."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A case of a finding, with the reasons that belong to the finding."""

    case: str
    reasons: tuple[Reason, ...]
    """The gravest first, then by what they mean to a training."""

    @property
    def size(self) -> float:
        """The largest relative change of those with the gravest verdict."""
        return max((abs(reason.relative_change or 0.0) for reason in self.telling), default=0.0)

    @property
    def telling(self) -> tuple[Reason, ...]:
        """The reasons with the gravest verdict; what got better hides nothing that got worse."""
        return tuple(one for one in self.reasons if one.verdict == self.reasons[0].verdict)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One change with one cause, and every case that shows it."""

    cause: Cause
    members: tuple[Member, ...]

    @property
    def reasons(self) -> Iterator[Reason]:
        """Those of all its members."""
        return (reason for member in self.members for reason in member.reasons)

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict of its reasons; without any, its cause is the verdict."""
        found: set[str] = {reason.verdict for reason in self.reasons} or {self.cause.what}
        return next(verdict for verdict in verdicts.VERDICTS if verdict in found)

    @property
    def cases(self) -> tuple[str, ...]:
        """The ids of its cases."""
        return tuple(member.case for member in self.members)

    @property
    def example(self) -> Member:
        """The member with the largest change; the first of several."""
        return max(self.members, key=lambda member: member.size)

    @property
    def is_failing(self) -> bool:
        """Whether it fails the gate."""
        return self.verdict in verdicts.FAILING

    @property
    def is_better(self) -> bool:
        """Whether it is better than the baseline."""
        return self.verdict in verdicts.UNACCEPTED

    @property
    def first(self) -> Reason | None:
        """The reason that means most to a training; None if it has none."""
        return min(self.reasons, key=lambda one: one.order, default=None)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the smallest and the largest relative change of each metric, by what it means."""
        found: dict[str, list[float]] = defaultdict(list)
        for reason in sorted(self.reasons, key=lambda one: one.order):
            if reason.relative_change is not None:
                found[reason.name].append(reason.relative_change)
        return {name: (min(changes), max(changes)) for name, changes in found.items()}


def find_causes(
    cases: Iterable[CaseVerdict], old: Mapping[str, Observation], new: Mapping[str, Observation]
) -> tuple[Finding, ...]:
    """Return the findings behind the verdicts: the gravest first, then by what they mean."""
    groups: dict[Cause, list[Member]] = defaultdict(list)
    for case in sorted(cases, key=lambda one: one.id):
        for cause, reasons in causes_of(case, old.get(case.id), new.get(case.id)):
            groups[cause].append(Member(case=case.id, reasons=reasons))

    def order(finding: Finding) -> tuple[object, ...]:
        first = finding.first
        # Of new cases, an invariant that is false says more than that nothing judges them.
        unjudged = verdicts.gravest(finding.verdict), math.inf, False, 0.0
        order = unjudged if first is None else first.order
        return order, -len(finding.members), finding.cause[:4]

    findings = (Finding(cause=cause, members=tuple(found)) for cause, found in groups.items())
    return tuple(sorted(findings, key=order))


def sort_findings(
    findings: Iterable[Finding], failures: Collection[Verdict]
) -> tuple[list[Finding], list[Finding], list[Finding]]:
    """Return the findings that fail, that were not compared, and that are better.

    failures: the verdicts that fail the run. A finding with failing and passing cases becomes two.
    """
    failing: list[Finding] = []
    rest: list[Finding] = []
    for finding in findings:
        parts: dict[bool, list[Member]] = defaultdict(list)
        for member in finding.members:
            parts[any(one.verdict in failures for one in member.reasons)].append(member)
        for fails, members in parts.items():
            (failing if fails else rest).append(replace(finding, members=tuple(members)))
    return (
        failing,
        [finding for finding in rest if finding.verdict in verdicts.INCOMPLETE],
        [finding for finding in rest if finding.is_better],
    )


def leading_reason(finding: Finding, member: Member) -> Reason:
    """Return the reason that shows a case's part in a finding best: the gravest, by its cause."""
    what = finding.cause.what
    by_cause = [f"{what}{BATCH_SUFFIX}", what]

    def order(reason: Reason) -> tuple[int, int, tuple[int, int, bool, float]]:
        position = -1 - by_cause.index(reason.name) if reason.name in by_cause else 0
        return verdicts.gravest(reason.verdict), position, reason.order

    return min(member.reasons, key=order)


def causes_of(
    case: CaseVerdict, old: Observation | None, new: Observation | None
) -> Iterator[tuple[Cause, tuple[Reason, ...]]]:
    """Yield the cause and the reasons of each strand of a case, without known defects."""
    if case.verdict in {"missing", "new"}:
        yield Cause("coverage", case.verdict, None), ()
    if new is None:
        return
    is_redefined = any(one.kind == "definition" for one in case.reasons)
    strands: dict[tuple[Strand, str], list[Reason]] = defaultdict(list)
    defects = {} if new.record.defects is UNSET else new.record.defects
    by_error: dict[str, str] = {}
    for reason in case.reasons:
        if reason.verdict == "known_defect":
            continue
        strand, name = _strand_of(reason, is_redefined=is_redefined)
        error = defects[name].error if strand == "invariant" and name in defects else None
        if error is not None:
            name = by_error.setdefault(error.pattern, name)
        strands[strand, name].append(reason)
    for follower, leader in _FOLLOWING_STRANDS:
        if follower in strands and leader in strands:
            strands[leader] += strands.pop(follower)
    for (strand, name), reasons in strands.items():
        reasons.sort(key=lambda one: one.order)
        yield _cause(strand, name, reasons, old, new), tuple(reasons)


_FOLLOWING_STRANDS: Final[tuple[tuple[tuple[Strand, str], tuple[Strand, str]], ...]] = (
    (("quality", ""), ("function", "")),
    (("function", ""), ("trained", "")),
    (("costs", ""), ("trained", "")),
    (("invariant", "expected_trainable"), ("trained", "")),
)
"""If the function changed, accuracy and loss follow; what trains decides losses and costs."""
_STRANDS: Final[Mapping[ReasonKind, Strand]] = {
    "status": "status",
    "invariant": "invariant",
    "budget": "budget",
    "fits": "fit",
    "trained": "trained",
    "inputs": "inputs",
    "model": "trained",
}
"""Other kinds are about the function."""
_STRANDS_OF_METRICS: Final[Mapping[Kind, Strand]] = {
    "fingerprint": "function",
    "accuracy": "quality",
    "score": "quality",
}
"""Metrics of other kinds are costs, or of the case's author."""


def _strand_of(reason: Reason, *, is_redefined: bool) -> tuple[Strand, str]:
    if reason.obstacle:
        # Of another definition, what the case costs now follows from its settings.
        is_alone = reason.obstacle == "other meaning" and not is_redefined
        return "coverage", reason.name if is_alone else reason.obstacle
    if reason.spec is None or reason.kind != "metric":
        return _STRANDS.get(reason.kind, "function"), reason.subject
    strand = _STRANDS_OF_METRICS.get(reason.spec.kind, "costs")
    is_own = strand == "costs" and reason.subject not in METRICS
    return ("own", reason.subject) if is_own else (strand, "")


def _cause(
    strand: Strand, name: str, reasons: Sequence[Reason], old: Observation | None, new: Observation
) -> Cause:
    worse: bool | None = any(reason.verdict in verdicts.FAILING for reason in reasons)
    if all(reason.verdict in verdicts.INCOMPLETE for reason in reasons):
        worse = None
    if strand in {"budget", "fit", "inputs", "invariant", "own"}:
        return Cause(strand, name, worse)
    assert old is not None  # noqa: S101  (a case without a reference has only a budget)
    if strand == "status":
        error = new.record.error or old.record.error
        return Cause(strand, new.record.status, worse, ("" if error is None else error.pattern,))
    if strand == "costs":
        return _cost_cause(reasons, old, new)
    if strand == "coverage":
        # Cases whose inputs differ alike have one cause; so do those that lack a training alike.
        alike = [one for one in reasons if one.kind in {"inputs", "training"}]
        where = [one.subject or str(one.old) for one in alike]
        settings = [one for one in reasons if one.kind == "definition" and one.subject]
        where += [f"{one.name}: {one.old} -> {one.new}" for one in settings]
        return Cause(strand, name, None, tuple(where))
    costs = [one for one in reasons if one.spec and one.spec.kind in {"exact", "bytes"}]
    if strand == "trained" and costs:
        return _cost_cause(costs, old, new)._replace(strand=strand, what=strand, worse=worse)
    # Nothing shows where in a model its function changed; the method is the closest hint.
    return Cause(strand, strand, worse, (new.record.case.method,))


_PARAMS: Final = ("trainable_params", "total_params", "adapter_bytes")
_FLOPS: Final = ("forward_flops", "backward_flops", "projection_flops", "optimizer_flops")
_LEADING: Final = (*_PARAMS, *_FLOPS, *(f"{name}{BATCH_SUFFIX}" for name in _FLOPS))
"""Costs that later ones follow from, and so do bytes, and then operators."""
_FOLLOWING: Final = frozenset({"aten_ops", "peak_bytes", "category_sum_bytes"})
"""Those that say least about the cause."""


def _cost_cause(reasons: Sequence[Reason], old: Observation, new: Observation) -> Cause:
    changed = {one.subject: one for one in reasons if one.verdict == reasons[0].verdict}
    large = [name for name, reason in changed.items() if not reason.is_small] or [*changed]
    sizes = [
        name
        for name in large
        if name in METRICS and name.removesuffix(BATCH_SUFFIX) not in _FOLLOWING
    ]
    metric = next((name for name in _LEADING if name in large), None) or max(
        sizes, key=lambda name: changed[name].share, default=None
    )
    part = None if metric is None else _largest_part(metric, old, new)
    metric = metric or large[0]
    return Cause(
        "costs",
        metric.removesuffix(BATCH_SUFFIX),
        changed[metric].verdict in verdicts.FAILING,
        (new.record.case.method,) if part is None else part[:2],
        None if part is None else part[2],
    )


def _largest_part(
    metric: str, old: Observation, new: Observation
) -> tuple[str, str, int | None] | None:
    """Return (part of a layer, operator, extra base runs) of the largest change."""
    attributed = "adapter_bytes" if metric in _PARAMS else metric
    totals: dict[tuple[str, str, int | None], int] = defaultdict(int)
    for split in explain_metric(attributed, old.record, new.record).breakdowns[:1]:
        for layer in split.layers:
            for row in layer.rows:
                part = row.module.removeprefix(layer.layer).lstrip(".") or "the layer itself"
                totals[part, row.what.removeprefix("aten."), layer.base_runs] += row.change
    return max(totals, key=lambda key: abs(totals[key]), default=None)
