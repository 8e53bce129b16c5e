"""Verdicts and explanations as the JSON that `compare` and `explain --format json` print."""

from collections.abc import Mapping, Sequence
from typing import Any

from peft_regress.gate.attribution import Breakdown, MetricChange
from peft_regress.gate.comparison import Comparison
from peft_regress.gate.findings import Finding
from peft_regress.gate.inputs import changed_settings
from peft_regress.gate.verdicts import BudgetUse, CaseVerdict, Observation, Reason
from peft_regress.report.sentences import false_on_a_side
from peft_regress.report.verdict.finding import finding_title
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION


def encode_verdict(comparison: Comparison) -> dict[str, Any]:
    """Return `{schema_version, exit_code, counts, repeats, cases}`.

    The exit code is that without strictness; `repeats` is the number of cases of which one seed
    alone trained in full; a case is `{id, verdict, reasons}`.
    """
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "exit_code": comparison.lenient_exit_code,
        "counts": comparison.counts,
        "repeats": len(comparison.repeating),
        "cases": [encode_case(case) for case in comparison.cases],
    }


def encode_case(case: CaseVerdict) -> dict[str, Any]:
    """Return `{id, verdict, reasons}`, with `remarks` and `budgets` if there are any."""
    encoded = fields(case, "id", "verdict")
    encoded["reasons"] = [_encode_reason(reason) for reason in case.reasons]
    if case.remarks:
        names = ("kind", "subject", "old", "new", "text")
        encoded["remarks"] = [fields(remark, *names) for remark in case.remarks]
    if case.budgets:
        encoded["budgets"] = [encode_budget(use) for use in case.budgets]
    return encoded


def _encode_reason(reason: Reason) -> dict[str, Any]:
    """Return `{metric, old, new, relative_change, bound, verdict}`, and what else is stated."""
    names = ("old", "new", "relative_change", "bound", "verdict")
    more = fields(reason, "bound_reason", "limit", "note")
    given = {name: value for name, value in more.items() if value not in {None, ""}}
    return {"metric": reason.title, **fields(reason, *names), **given}


def encode_finding(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON values."""
    return {
        "verdict": finding.verdict,
        "title": finding_title(finding),
        "kind": finding.cause.strand,
        **fields(finding.cause, "what", "base_runs"),
        "where": list(finding.cause.where),
        "cases": list(finding.cases),
        "example": finding.example.case,
        "relative_changes": {
            name: {"smallest": low, "largest": high}
            for name, (low, high) in finding.ranges().items()
        },
        "reasons": [_encode_reason(reason) for reason in finding.example.reasons],
    }


def encode_budget(use: BudgetUse) -> dict[str, Any]:
    """Return `{budget, value, limit, used, over}`."""
    over = None if use.over_by is None else use.is_over
    return {"budget": use.name, **fields(use, "value", "limit"), "used": use.share, "over": over}


def encode_sides(key: str, pairs: Mapping[str, tuple[Any, Any]]) -> list[dict[str, Any]]:
    """Return `{key, old, new}` of what differs between two sides, by name."""
    return [{key: name, "old": was, "new": now} for name, (was, now) in pairs.items()]


def encode_explanation(
    old: Observation, new: Observation, changes: Sequence[MetricChange]
) -> dict[str, Any]:
    """Return all rows, and each invariant that is false on a side, with where."""
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "case": new.record.case.id,
        "old": _encode_side(old),
        "new": _encode_side(new),
        "environment": encode_sides("package", changed_packages(old.environment, new.environment)),
        "same_definition": old.record.definition == new.record.definition,
        "settings": encode_sides("setting", changed_settings(old.record, new.record)),
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
        "error": None if error is None else fields(error, "type", "message"),
    }


def _encode_change(change: MetricChange) -> dict[str, Any]:
    phases = change.peak_phases
    return {
        **fields(change, "metric", "unit", "old", "new", "change", "relative_change"),
        "peak_phase": None if phases is None else {"old": phases[0], "new": phases[1]},
        "not_held_by": list(change.not_held_by),
        "breakdowns": [_encode_breakdown(split) for split in change.breakdowns],
    }


def _encode_breakdown(split: Breakdown) -> dict[str, Any]:
    missing = split.unattributed
    of_layer = ("layer", "what", "old", "new", "change", "base_runs")
    of_row = ("module", "what", "old", "new", "change", "only_in")
    return {
        **fields(split, "by", "unmoved"),
        "layers": [
            {**fields(layer, *of_layer), "rows": [fields(row, *of_row) for row in layer.rows]}
            for layer in split.layers
        ],
        "unattributed": {"old": missing[0], "new": missing[1]},
        "sum": sum(row.change for row in split.rows) + missing[1] - missing[0],
    }


def fields(value: object, *names: str) -> dict[str, Any]:
    """Return attributes by their names."""
    return {name: getattr(value, name) for name in names}
