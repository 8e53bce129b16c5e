"""Verdicts and explanations as the JSON that `compare` and `explain --format json` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peft_regress.gate.attribution import Breakdown, MetricChange
from peft_regress.gate.comparison import Comparison
from peft_regress.gate.facts import changed_settings
from peft_regress.gate.findings import Finding
from peft_regress.gate.verdicts import BudgetUse, CaseVerdict, Observation, Reason, Remark
from peft_regress.report.sentences import false_on_a_side
from peft_regress.report.verdict.finding import finding_title
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION


def encode_verdict(comparison: Comparison) -> dict[str, Any]:
    """Return `{schema_version, exit_code, counts, repeats, cases}`.

    The exit code is that without strictness; `repeats` is the number of cases of which one seed
    alone trained in full; a case is `{id, verdict, reasons}`. If the cases were narrowed, with
    `only`, the glob, and `left_out`, the number of other cases with each verdict.
    """
    only = comparison.invocation.only
    narrowed = {} if only is None else {"only": only, "left_out": comparison.left_out}
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "exit_code": comparison.lenient_exit_code,
        "counts": comparison.counts,
        "repeats": len(comparison.repeating),
        **narrowed,
        "cases": [encode_case(case) for case in comparison.cases],
    }


def encode_case(case: CaseVerdict) -> dict[str, Any]:
    """Return `{id, verdict, reasons}`, with `remarks` and `budgets` if there are any."""
    encoded = {
        "id": case.id,
        "verdict": case.verdict,
        "reasons": [encode_reason(reason) for reason in case.reasons],
    }
    if case.remarks:
        encoded["remarks"] = [encode_remark(remark) for remark in case.remarks]
    if case.budgets:
        encoded["budgets"] = [encode_budget(use) for use in case.budgets]
    return encoded


def encode_reason(reason: Reason) -> dict[str, Any]:
    """Return `{metric, old, new, relative_change, bound, verdict}`.

    With `bound_reason` for a bound of the author's, `limit` for a budget or a device, and `note`
    for an invariant: where it is false.
    """
    encoded = {
        "metric": reason.title,
        "old": reason.old,
        "new": reason.new,
        "relative_change": reason.relative_change,
        "bound": reason.bound,
        "verdict": reason.verdict,
    }
    if reason.bound_reason:
        encoded["bound_reason"] = reason.bound_reason
    if reason.limit is not None:
        encoded["limit"] = reason.limit
    if reason.note:
        encoded["note"] = reason.note
    return encoded


def encode_finding(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON values."""
    return {
        "verdict": finding.verdict,
        "title": finding_title(finding),
        "kind": finding.cause.strand,
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


def encode_budget(use: BudgetUse) -> dict[str, Any]:
    """Return `{budget, value, limit, used, over}`."""
    return {
        "budget": use.name,
        "value": use.value,
        "limit": use.limit,
        "used": use.share,
        "over": use.is_over if use.is_judged else None,
    }


def encode_remark(remark: Remark) -> dict[str, Any]:
    """Return `{kind, subject, old, new, text}`."""
    return {
        "kind": remark.kind,
        "subject": remark.subject,
        "old": remark.old,
        "new": remark.new,
        "text": remark.text,
    }


def encode_fronts(comparison: Comparison) -> dict[str, Any]:
    """Return `{lost_fronts: [{case, cost, beaten_by}]}`."""
    return {
        "lost_fronts": [
            {"case": lost.case, "cost": lost.cost, "beaten_by": lost.beaten_by}
            for lost in comparison.fronts
        ]
    }


def encode_explanation(
    old: Observation, new: Observation, changes: Sequence[MetricChange]
) -> dict[str, Any]:
    """Return all rows, and each invariant that is false on a side, with where."""
    packages = sorted(old.environment.keys() | new.environment.keys())
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "case": new.record.case.id,
        "old": _encode_side(old),
        "new": _encode_side(new),
        "environment": [
            {"package": name, "old": old.environment.get(name), "new": new.environment.get(name)}
            for name in packages
            if old.environment.get(name) != new.environment.get(name)
        ],
        "same_definition": old.record.definition == new.record.definition,
        "settings": [
            {"setting": name, "old": was, "new": now}
            for name, (was, now) in changed_settings(old.record, new.record).items()
        ],
        "invariants": [
            {"invariant": name, "old": was, "new": now, "note": note}
            for name, was, now, note in false_on_a_side(old.record, new.record)
        ],
        "metrics": [_encode_change(change) for change in changes],
    }


def _encode_side(side: Observation) -> dict[str, Any]:
    error = side.record.error
    return {
        "run": side.run_name,
        "status": side.record.status,
        "error": None if error is None else {"type": error.type, "message": error.message},
    }


def _encode_change(change: MetricChange) -> dict[str, Any]:
    phases = change.peak_phases
    return {
        "metric": change.metric,
        "unit": change.unit,
        "old": change.old,
        "new": change.new,
        "change": change.change,
        "relative_change": change.relative_change,
        "peak_phase": None if phases is None else {"old": phases[0], "new": phases[1]},
        "not_held_by": list(change.not_held_by),
        "breakdowns": [_encode_breakdown(split) for split in change.breakdowns],
    }


def _encode_breakdown(split: Breakdown) -> dict[str, Any]:
    return {
        "by": split.by,
        "layers": [
            {
                "layer": layer.layer,
                "what": layer.what,
                "old": layer.old,
                "new": layer.new,
                "change": layer.change,
                "base_runs": layer.base_runs,
                "rows": [
                    {
                        "module": row.module,
                        "what": row.what,
                        "old": row.old,
                        "new": row.new,
                        "change": row.change,
                        "only_in": row.only_in,
                    }
                    for row in layer.rows
                ],
            }
            for layer in split.layers
        ],
        "unmoved": split.unmoved,
        "unattributed": {"old": split.unattributed[0], "new": split.unattributed[1]},
        "sum": sum(row.change for row in split.rows)
        + split.unattributed[1]
        - split.unattributed[0],
    }
