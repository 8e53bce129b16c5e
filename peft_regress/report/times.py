"""Paired times as text, Markdown and JSON values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.metrics import format_value
from peft_regress.report.markdown_syntax import escape_markdown
from peft_regress.report.sentences import environment_lines, wrapped
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.schema import SCHEMA_VERSION
from peft_regress.text import clean

if TYPE_CHECKING:
    from peft_regress.gate.paired_times import CaseTimes, Estimate, TimingRun

__all__ = ["encode_times", "times_markdown", "times_text"]

_MORE_PAIRS = 4  # half of an interval's width


def times_text(run: TimingRun) -> str:
    """Return a block a case, what differs between the interpreters, and the outcome."""
    blocks = ["\n".join([_case_line(case), *_below(case)]) for case in run.cases]
    return "\n".join([*blocks, "", *_sides(run), "", _outcome(run)])


def times_markdown(run: TimingRun) -> str:
    """Return the same with a table row a case."""
    lines = [
        f"**{escape_markdown(_outcome(run))}**",
        "",
        "| case | verdict | base | candidate | change | interval | pairs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in run.cases:
        cells = (case.id, case.verdict, *_cells(case))
        lines.append("| " + " | ".join(escape_markdown(clean(cell)) for cell in cells) + " |")
    for case in run.cases:
        below = " ".join(line.strip() for line in _below(case))
        if below:
            lines += ["", escape_markdown(f"{clean(case.id)}: {below}")]
    return "\n".join([*lines, "", escape_markdown("; ".join(_sides(run))), ""])


def encode_times(run: TimingRun) -> dict[str, Any]:
    """Return `{schema_version, exit_code, base, candidate, environment, counts, cases}`."""
    moved = changed_packages(run.base_packages, run.candidate_packages)
    return {
        "schema_version": SCHEMA_VERSION,
        "exit_code": run.exit_code,
        "base": run.base,
        "candidate": run.candidate,
        "environment": [
            {"package": name, "base": base, "candidate": candidate}
            for name, (base, candidate) in moved.items()
        ],
        "counts": run.counts,
        "cases": [_encode_case(case) for case in run.cases],
    }


def _encode_case(case: CaseTimes) -> dict[str, Any]:
    estimate, seconds = case.estimate, case.step_seconds
    found: dict[str, Any] = dict.fromkeys(
        ("ratio", "interval", "confidence", "pairs", "base_step_seconds", "candidate_step_seconds")
    )
    if estimate is not None and seconds is not None:
        low, high = estimate.interval.low, estimate.interval.high
        found = {
            "ratio": estimate.ratio,
            "interval": [low, high if math.isfinite(high) else None],
            "confidence": estimate.confidence,
            "pairs": estimate.pairs,
            "base_step_seconds": seconds[0],
            "candidate_step_seconds": seconds[1],
        }
    return {"id": case.id, "verdict": case.verdict, **found, "problem": case.problem or None}


def _case_line(case: CaseTimes) -> str:
    line = f"{clean(case.id)}: {case.verdict}"
    base, candidate, change, interval, pairs = _cells(case)
    if change:
        line += f"  {base} -> {candidate} a step, {change} {interval}, {pairs} pairs"
    return line


def _cells(case: CaseTimes) -> tuple[str, str, str, str, str]:
    """Return (base, candidate, change, interval, pairs), each ready to show."""
    if case.estimate is None or case.step_seconds is None:
        return ("",) * 5
    base, candidate = (format_value(seconds, "second") for seconds in case.step_seconds)
    change = _percent(case.estimate.ratio)
    return base, candidate, change, _interval(case.estimate), str(case.estimate.pairs)


def _interval(estimate: Estimate) -> str:
    return f"[{_percent(estimate.interval.low)}, {_percent(estimate.interval.high)}]"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %" if math.isfinite(ratio) else "no bound"


def _below(case: CaseTimes) -> list[str]:
    """Say what went wrong, or what would tell more."""
    if case.problem:
        return [wrapped(f"  {clean(case.problem, longest=1000)}", indent="    ")]
    if case.verdict == "undetermined" and case.estimate is not None:
        more = _MORE_PAIRS * case.estimate.pairs
        what = f"  a step {100 * DEFAULT_POLICY.time_effect:g} % slower is not excluded"
        return [f"{what}: time it again with --pairs {more}, or with less else running"]
    return []


def _sides(run: TimingRun) -> list[str]:
    moved = environment_lines(run.base_packages, run.candidate_packages)
    lines = [f"base: {clean(run.base)}", f"candidate: {clean(run.candidate)}"]
    lines.append(wrapped("environment: " + ("; ".join(moved) or "the same packages")))
    estimates = [case.estimate for case in run.cases if case.estimate is not None]
    if estimates:
        each = f"{100 * estimates[0].confidence:.4g} %"
        together = f"{100 * (1 - DEFAULT_POLICY.time_error_rate):g} %"
        lines.append(f"intervals: {each} each, so that all {len(run.cases)} hold with {together}")
    return lines


def _outcome(run: TimingRun) -> str:
    words = {
        0: "no step is slower",
        1: "SLOWER",
        3: "INCOMPLETE: not everything could be told",
    }[run.exit_code]
    counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(run.counts.items()))
    return f"{words} ({counted or 'nothing timed'})"
