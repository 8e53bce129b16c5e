"""Write the badge with the verdict of a run, as the `endpoint` badge of shields.io reads it.

    peft-regress compare baselines run.json --format json > findings.json
    python tools/ci/badge.py findings.json badge.json

A workflow's own badge says that it failed, and not why. It needs only the standard library.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from publish_results import PublishError, read_text

_INCOMPLETE: Final = ("incomparable", "missing", "new")
_FAILING: Final = ("newly_failing", "over_budget", "regressed")
_UNACCEPTED: Final = ("fixed", "improved")

_NOT_JUDGED: Final = ("not judged", "lightgrey")


def main(arguments: list[str] | None = None) -> int:
    """Write the badge; return 2 if it cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("findings", type=Path, help="what `compare --format json` printed")
    parser.add_argument("badge", type=Path, help="the file to write")
    chosen = parser.parse_args(arguments)
    message, color = verdict_of(chosen.findings)
    badge = {"schemaVersion": 1, "label": "gate", "message": message, "color": color}
    try:
        chosen.badge.write_text(json.dumps(badge) + "\n", encoding="utf-8")
    except OSError as error:
        print(
            f"error: {chosen.badge}: cannot be written ({error.strerror}); make its folder first",
            file=sys.stderr,
        )
        return 2
    print(f"{chosen.badge}: {message}")
    return 0


def verdict_of(findings: Path) -> tuple[str, str]:
    """Return the badge's message and color: green only if all cases were compared and passed.

    Findings that are missing, unreadable or of another form are no pass: then nothing was judged.
    """
    try:
        found = json.loads(read_text(findings))
        code, counts = found["exit_code"], found["counts"]
        return _by_code(code, {name: int(count) for name, count in counts.items()})
    except (PublishError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return _NOT_JUDGED


def _by_code(code: Any, counts: dict[str, int]) -> tuple[str, str]:
    if code == 0 and sum(counts.values()):
        return "no regression", "brightgreen"
    if code == 1:
        # An improvement that nobody accepted fails a strict run, a lost front even without one.
        what = _named(counts, _FAILING) or _named(counts, _UNACCEPTED, "not accepted") or "failed"
        return what, "red"
    if code == 3:
        return _named(counts, _INCOMPLETE) or "incomplete", "orange"
    return _NOT_JUDGED


def _named(counts: dict[str, int], names: tuple[str, ...], suffix: str = "") -> str:
    found = [f"{counts[name]} {name.replace('_', ' ')}" for name in names if counts.get(name)]
    return " ".join(filter(None, (", ".join(found), suffix if found else "")))


if __name__ == "__main__":
    sys.exit(main())
