"""Paired times: the report of `peft-regress time`, and its JSON."""

import math
from collections.abc import Iterator
from typing import Any

from peft_regress.gate.paired_times import CaseTimes, TimingRun
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.metrics import format_value
from peft_regress.report.document import Section
from peft_regress.report.layout import STYLE_OF_EXIT, Row, Table
from peft_regress.report.sentences import version_changes
from peft_regress.report.verdict.to_json import fields
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean

_HEADINGS = ("case", "verdict", "base", "candidate", "change", "interval", "pairs")
_MORE_PAIRS = 4
"""Times as many pairs halve the width of an interval."""


def times_document(run: TimingRun) -> list[Section | Table]:
    """Return a row for each case, what differs between the interpreters, and the outcome."""
    rows = tuple(
        Row(cells=(clean(case.id), case.verdict, *_cells(case)), notes=tuple(_notes(case)))
        for case in run.cases
    )
    return [
        Table(headings=_HEADINGS, rows=rows, numbers=(2, 3, 4, 5, 6)),
        Section(title="interpreters:", body=tuple(_sides(run))),
        Section(title=_outcome(run), style=STYLE_OF_EXIT[run.exit_code]),
    ]


def encode_times(run: TimingRun) -> dict[str, Any]:
    """Return `{schema_version, exit_code, base, candidate, environment, counts, cases}`."""
    moved = changed_packages(run.base_packages, run.candidate_packages)
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        **fields(run, "exit_code", "base", "candidate", "counts"),
        "environment": [
            {"package": name, "base": base, "candidate": candidate}
            for name, (base, candidate) in moved.items()
        ],
        "cases": [_encode_case(case) for case in run.cases],
    }


def _encode_case(case: CaseTimes) -> dict[str, Any]:
    found = case.estimate
    base, candidate = case.step_seconds or (None, None)
    return {
        **fields(case, "id", "verdict"),
        "ratio": found and found.ratio,
        "interval": found and [found.low, found.high if math.isfinite(found.high) else None],
        "confidence": found and found.confidence,
        "pairs": found and found.pairs,
        "base_step_seconds": base,
        "candidate_step_seconds": candidate,
        "problem": case.problem or None,
    }


def _cells(case: CaseTimes) -> tuple[str, str, str, str, str]:
    """Return (base, candidate, change, interval, pairs), each as text."""
    found = case.estimate
    if found is None or case.step_seconds is None:
        return ("",) * 5
    base, candidate = (format_value(seconds, "second") for seconds in case.step_seconds)
    interval = f"[{_percent(found.low)}, {_percent(found.high)}]"
    return base, candidate, _percent(found.ratio), interval, str(found.pairs)


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %" if math.isfinite(ratio) else "no bound"


def _notes(case: CaseTimes) -> Iterator[str]:
    """Yield what went wrong, or how to learn more."""
    if case.problem:
        yield clean(case.problem, longest=1000)
    elif case.verdict == "undetermined" and case.estimate is not None:
        more = _MORE_PAIRS * case.estimate.pairs
        effect = f"{100 * DEFAULT_POLICY.time_effect:g} %"
        yield (
            f"a step may still be {effect} slower: time it again with --pairs {more}, or with a "
            "lower load on this machine"
        )


def _sides(run: TimingRun) -> Iterator[str]:
    yield f"base: {clean(run.base)}"
    yield f"candidate: {clean(run.candidate)}"
    moved = version_changes(run.base_packages, run.candidate_packages)
    yield f"environment: {'; '.join(moved) or 'the same packages'}"
    estimates = [case.estimate for case in run.cases if case.estimate is not None]
    if estimates:
        each = f"{100 * estimates[0].confidence:.4g} %"
        together = f"{100 * (1 - DEFAULT_POLICY.time_error_rate):g} %"
        yield f"intervals: {each} each, so that all {len(run.cases)} hold with {together}"


def _outcome(run: TimingRun) -> str:
    words = {0: "no step is slower", 1: "SLOWER", 3: "INCOMPLETE: some cases have no verdict"}
    counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(run.counts.items()))
    return f"{words[run.exit_code]} ({counted or 'nothing timed'})"
