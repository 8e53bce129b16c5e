"""Group changes in many cases by their cause: the same change in thirty cases is one finding.

Pure: no IO, no torch. The reasons of a case are split into strands, each with its own cause: its
status, its costs, each invariant, its function, its times. Strands of several cases are one finding
if they have an equal cause. The cause of costs is the part of a layer with most of the change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from peft_regress.gate.attribution import MetricChange, explain_metric
from peft_regress.gate.facts import error_pattern
from peft_regress.gate.verdicts import (
    FAILING,
    INCOMPLETE,
    UNACCEPTED,
    VERDICTS,
    CaseVerdict,
    Observation,
    Reason,
    Verdict,
    gravest,
)
from peft_regress.metrics import BATCH_SUFFIX, METRICS, MetricSpec, metric_order

Strand = Literal[
    "status",
    "coverage",
    "budget",
    "fit",
    "costs",
    "trained",
    "invariant",
    "function",
    "quality",
    "own",
    "time",
]

_PARAMS: Final = ("trainable_params", "total_params", "adapter_bytes")
_FLOPS: Final = ("forward_flops", "backward_flops", "projection_flops", "optimizer_flops")
_OPERATIONS: Final = "aten_ops"
_WHOLE: Final = "the layer itself"


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

    @property
    def size(self) -> float:
        """The largest relative change."""
        return max((abs(reason.relative_change or 0.0) for reason in self.reasons), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One change with one cause, and every case that shows it."""

    cause: Cause
    members: tuple[Member, ...]

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict of its reasons; without any, its cause is the verdict."""
        found: set[str] = {reason.verdict for one in self.members for reason in one.reasons}
        found = found or {self.cause.what}
        return next(verdict for verdict in VERDICTS if verdict in found)

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
        return self.verdict in FAILING

    @property
    def is_better(self) -> bool:
        """Whether it is better than the baseline."""
        return self.verdict in UNACCEPTED

    def spec_of(self, metric: str) -> MetricSpec | None:
        """Return the unit, direction and kind of a metric of its reasons; None for other facts."""
        specs = (
            reason.spec for one in self.members for reason in one.reasons if reason.metric == metric
        )
        return next(specs, None)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the smallest and the largest relative change of each metric."""
        found: dict[str, list[float]] = defaultdict(list)
        for member in self.members:
            for reason in member.reasons:
                if reason.relative_change is not None:
                    found[reason.metric].append(reason.relative_change)
        return {
            name: (min(found[name]), max(found[name])) for name in sorted(found, key=metric_order)
        }


def find_causes(
    verdicts: Iterable[CaseVerdict],
    old: Mapping[str, Observation],
    new: Mapping[str, Observation],
) -> tuple[Finding, ...]:
    """Return the findings behind the verdicts, the gravest first, then those with most cases."""
    groups: dict[Cause, list[Member]] = defaultdict(list)
    for case in sorted(verdicts, key=lambda one: one.id):
        for cause, reasons in causes_of(case, old.get(case.id), new.get(case.id)):
            groups[cause].append(Member(case=case.id, reasons=reasons))
    return _sorted(Finding(cause=cause, members=tuple(found)) for cause, found in groups.items())


def narrowed(findings: Iterable[Finding], cases: Collection[str]) -> tuple[Finding, ...]:
    """Return findings with only the members among some cases, sorted like `find_causes`."""
    parts = (
        (finding, tuple(member for member in finding.members if member.case in cases))
        for finding in findings
    )
    return _sorted(replace(finding, members=members) for finding, members in parts if members)


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    def order(finding: Finding) -> tuple[object, ...]:
        # Of new cases, an invariant that is false says more than that nothing judges them.
        is_coverage = finding.cause.strand == "coverage"
        return gravest(finding.verdict), is_coverage, -len(finding.members), finding.cause[:4]

    return tuple(sorted(findings, key=order))


def causes_of(
    case: CaseVerdict, old: Observation | None, new: Observation | None
) -> Iterator[tuple[Cause, tuple[Reason, ...]]]:
    """Yield the cause and the reasons of each strand of a case, without known defects."""
    if case.verdict in {"missing", "new"}:
        yield Cause("coverage", case.verdict, None), ()
    if new is None:
        return
    is_redefined = any(one.metric.partition(" ")[0] == "definition" for one in case.reasons)
    strands: dict[tuple[Strand, str], list[Reason]] = defaultdict(list)
    for reason in case.reasons:
        if reason.verdict != "known_defect":
            strands[_strand_of(reason, is_redefined=is_redefined)].append(reason)
    function = strands.get(("function", ""))
    quality = strands.pop(("quality", ""), None)
    if quality and function:
        # If the function changed, accuracy and loss follow.
        function += quality
    elif quality:
        strands["quality", ""] = quality
    trained = strands.get(("trained", ""))
    if trained and ("costs", "") in strands:
        # What trains decides what it costs.
        strands["costs", ""] += strands.pop(("trained", ""))
    for (strand, name), reasons in strands.items():
        yield _cause(strand, name, reasons, old, new), tuple(reasons)


_STRANDS: Final[dict[str, Strand]] = {
    "fingerprint": "function",
    "accuracy": "quality",
    "score": "quality",
}
"""By the kind of a metric; metrics of other kinds are costs, or of the case's author."""
_STRANDS_BY_WORD: Final[dict[str, Strand]] = {
    "invariant": "invariant",
    "budget": "budget",
    "fits": "fit",
    "trained": "trained",
    "curve": "function",
    "evaluation": "function",
    "numerics": "function",
    "rates": "function",
}
"""By the first word of a reason that is about no metric."""


def _strand_of(reason: Reason, *, is_redefined: bool) -> tuple[Strand, str]:
    if reason.metric == "status":
        return "status", ""
    word, _, name = reason.metric.partition(" ")
    if reason.verdict in INCOMPLETE - {"new"}:
        # Of another definition, what the case costs now follows from its settings.
        what = "definition" if is_redefined else reason.metric
        return "coverage", NOT_MEASURED if _is_not_measured(reason) else what
    if word in _STRANDS_BY_WORD:
        return _STRANDS_BY_WORD[word], name
    strand = _STRANDS.get("exact" if reason.spec is None else reason.spec.kind, "costs")
    return ("own", reason.metric) if strand == "costs" and _is_own(reason) else (strand, "")


def _is_not_measured(reason: Reason) -> bool:
    """Return whether the version that made the run cannot measure what the reference has."""
    of_metric = reason.spec is not None or reason.metric.startswith("invariant ")
    return of_metric and reason.old is not None and reason.new is None


def _is_own(reason: Reason) -> bool:
    """Return whether a reason is about a metric of the case's author."""
    return reason.metric not in METRICS and reason.spec is not None


NOT_MEASURED: Final = "not measured"
"""What the cause is of all that an older version of this project cannot measure."""

_BY_SIDE: Final = frozenset({"inputs", "training"})


def _cause(
    strand: Strand, name: str, reasons: Sequence[Reason], old: Observation | None, new: Observation
) -> Cause:
    worse = any(reason.verdict in FAILING for reason in reasons)
    if strand in {"budget", "fit", "invariant", "own"}:
        return Cause(strand, name, worse)
    assert old is not None  # noqa: S101  (a case without a reference has only a budget)
    case = new.record.case
    if strand == "status":
        error = new.record.error or old.record.error
        return Cause(strand, new.record.status, worse, (error_pattern(error),))
    if strand == "costs":
        return _cost_cause(reasons, old, new)
    if strand == "coverage":
        # Cases whose inputs differ alike have one cause; so do those that lack a training alike.
        where = tuple(str(reason.old) for reason in reasons) if name in _BY_SIDE else ()
        settings = [one for one in reasons if one.metric.startswith("definition ")]
        where += tuple(f"{one.metric}: {one.old} -> {one.new}" for one in settings)
        return Cause(strand, name, None, where)
    if strand == "trained":
        return Cause(strand, strand, worse, (str(reasons[0].new),))
    # Nothing shows where in a model its function changed; the method is the closest hint.
    return Cause(strand, strand, worse, (case.method,))


def _cost_cause(reasons: Sequence[Reason], old: Observation, new: Observation) -> Cause:
    """Return the cause of changed costs: parameters before FLOPs before bytes before operators.

    Later ones in that order follow from earlier ones.
    """
    changed = {reason.metric: reason for reason in reasons if reason.metric != "trained"}
    for metrics in (_PARAMS, _FLOPS, tuple(f"{name}{BATCH_SUFFIX}" for name in _FLOPS)):
        for metric in metrics:
            if metric in changed:
                return _attributed_cause(metric, changed[metric], old, new)
    sizes = {
        metric: reason
        for metric, reason in changed.items()
        if metric in METRICS
        and not metric.startswith(_OPERATIONS)
        and metric.removesuffix(BATCH_SUFFIX) not in {"peak_bytes", "category_sum_bytes"}
    }
    if sizes:
        metric = max(sizes, key=lambda name: abs(sizes[name].relative_change or 0.0))
        return _attributed_cause(metric, sizes[metric], old, new)
    metric, reason = next(iter(changed.items()))
    where = (new.record.case.method,)
    return Cause("costs", metric.removesuffix(BATCH_SUFFIX), reason.verdict in FAILING, where)


def _attributed_cause(metric: str, reason: Reason, old: Observation, new: Observation) -> Cause:
    """Return the cause, located in the part of a layer with most of the change."""
    attributed = "adapter_bytes" if metric in _PARAMS else metric
    part = _largest_part(explain_metric(attributed, old.record, new.record))
    where = (new.record.case.method,) if part is None else part[:2]
    return Cause(
        "costs",
        metric.removesuffix(BATCH_SUFFIX),
        reason.verdict in FAILING,
        where,
        None if part is None else part[2],
    )


def _largest_part(change: MetricChange) -> tuple[str, str, int | None] | None:
    """Return (part of a layer, operator, extra base runs) of the largest change."""
    if not change.breakdowns:
        return None
    totals: dict[tuple[str, str, int | None], int] = defaultdict(int)
    for layer in change.breakdowns[0].layers:
        for row in layer.rows:
            part = row.module.removeprefix(layer.layer).lstrip(".") or _WHOLE
            what = row.what.removeprefix("aten.")
            totals[part, what, layer.base_runs] += row.change
    return max(totals, key=lambda key: abs(totals[key]), default=None)
