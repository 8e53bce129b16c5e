"""Write the badge with the verdict of a run, as the `endpoint` badge of shields.io reads it.

    peft-regress compare baselines run.json --format json > findings.json
    python tools/ci/badge.py findings.json badge.json

A workflow's own badge says that it failed, and not why. It needs only the standard library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from untrusted import read_text

_INCOMPLETE: Final = ("incomparable", "missing", "new")
_FAILING: Final = ("newly_failing", "over_budget", "regressed")
# They fail a strict run alone.
_UNACCEPTED: Final = ("fixed", "improved")


def verdict_of(findings: str) -> tuple[str, str]:
    """Return the badge's message and color: green only if all cases were compared and passed.

    Findings that are missing, unreadable or of another form are no pass: then nothing was judged.
    """
    try:
        found = json.loads(findings)
        code, counts = found["exit_code"], {name: int(n) for name, n in found["counts"].items()}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        code, counts = None, {}
    if code == 0 and sum(counts.values()):
        return "no regression", "brightgreen"
    if code == 1:
        unaccepted = _named(counts, _UNACCEPTED)
        failed = f"{unaccepted} not accepted" if unaccepted else "failed"
        return _named(counts, _FAILING) or failed, "red"
    if code == 3:
        return _named(counts, _INCOMPLETE) or "incomplete", "orange"
    return "not judged", "lightgrey"


def _named(counts: dict[str, int], names: tuple[str, ...]) -> str:
    return ", ".join(
        f"{counts[name]} {name.replace('_', ' ')}" for name in names if counts.get(name)
    )


if __name__ == "__main__":
    message, color = verdict_of(read_text(Path(sys.argv[1])))
    badge = {"schemaVersion": 1, "label": "gate", "message": message, "color": color}
    Path(sys.argv[2]).write_text(json.dumps(badge) + "\n", encoding="utf-8")
    print(f"{sys.argv[2]}: {message}")
