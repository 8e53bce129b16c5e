"""A verdict as the JSON that `peft-regress compare --format json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_regress.records import SCHEMA_VERSION

if TYPE_CHECKING:
    from peft_regress.gate import RunVerdict

__all__ = ["encode_verdict"]


def encode_verdict(verdict: RunVerdict) -> dict[str, Any]:
    """Return `{schema_version, exit_code, counts, cases: [{id, verdict, reasons}]}`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "exit_code": verdict.exit_code,
        "counts": dict(verdict.counts),
        "cases": [
            {
                "id": case.id,
                "verdict": case.verdict,
                "reasons": [
                    {
                        "metric": reason.metric,
                        "old": reason.old,
                        "new": reason.new,
                        "relative_change": reason.relative_change,
                        "bound": reason.bound,
                        "verdict": reason.verdict,
                    }
                    for reason in case.reasons
                ],
            }
            for case in verdict.cases
        ],
    }
