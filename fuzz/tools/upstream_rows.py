"""Take the convolution rows of peft's own tests through this project's ledger and invariants.

    python fuzz/tools/upstream_rows.py SOURCE                  every row, and what the claims say
    python fuzz/tools/upstream_rows.py SOURCE --only 'Conv2d*' the rows whose label matches a glob
    python fuzz/tools/upstream_rows.py SOURCE --write          write docs/upstream-rows.md
    python fuzz/tools/upstream_rows.py SOURCE --check          exit 1 if the page has other tables

SOURCE is the source distribution of the installed release (`pip download --no-deps --no-binary peft
peft==0.21.2`), or a checkout. Upstream's rows are an oracle from outside: nobody here chose them.
Each is measured like a fine-tuning of a user: its costs split by module, and the invariants. Exit
code 1 if a claim does not hold and `upstream_claims.py` does not say why, or if a row could not be
read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Final

from upstream_measuring import Result, measured
from upstream_source import Row, UpstreamCases, cases_in, read_tests

from peft_regress.errors import PeftRegressError
from peft_regress.text import count_of

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "fuzz" / "docs" / "upstream-rows.md"
TABLES = ("count", "broken")


def line(result: Result) -> str:
    """Return one line for the terminal."""
    cost = "" if result.ratio is None else f", {result.ratio:.2f} times the forward FLOPs"
    found = [
        f"\n  {what}: {said}\n    {reason or 'NOT EXPLAINED'}"
        for (what, said), reason in zip(result.broken.items(), result.reasons.values(), strict=True)
    ]
    return f"{result.row.name} ({result.row.network}): {_claims(result)}{cost}{''.join(found)}"


def _claims(result: Result) -> str:
    held, broken = len(result.held), len(result.broken)
    return f"{held} of {count_of(held + broken, 'claim')} hold"


def summary(results: Sequence[Result], *, version: str) -> str:
    """Return how many claims were checked, and how many hold."""
    held = sum(len(one.held) for one in results)
    broken = sum(len(one.broken) for one in results)
    unexplained = sum(reason is None for one in results for reason in one.reasons.values())
    sound = sum(not one.broken for one in results)
    return (
        f"peft {version}: {count_of(len(results), 'row')} on "
        f"{count_of(len({one.row.network for one in results}), 'network')}, "
        f"{held + broken:,} claims, of which {held:,} hold. All hold for {count_of(sound, 'row')}. "
        f"{unexplained or 'None'} of the other {broken} is without an explanation."
    )


def tables(results: Sequence[Result], *, version: str) -> dict[str, str]:
    """Return what stands between the markers of the page, by name."""
    return {
        "count": summary(results, version=version),
        "broken": _broken(results),
    }


def _broken(results: Sequence[Result]) -> str:
    causes: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for one in results:
        for what, reason in one.reasons.items():
            causes[what, reason or "**not explained**"].append(one.row)
    lines = ["| claim | does not hold for | why |", "| --- | --- | --- |"]
    for (what, reason), rows in causes.items():
        names = "; ".join(dict.fromkeys(row.name for row in rows))
        shown = f"`{what}`" if "_" in what else what
        lines.append(f"| {shown} | {names} | {reason} |")
    return "\n".join(lines) if causes else "All claims hold."


def tried(cases: UpstreamCases, pattern: str) -> list[Result]:
    """Measure the rows whose label matches a glob; print a line for each.

    Raises `SystemExit` if no row matches.
    """
    chosen = [
        (number, row)
        for number, row in enumerate(cases.rows, start=1)
        if fnmatchcase(row.name, pattern)
    ]
    if not chosen:
        sys.exit(f"no row matches {pattern!r}; the first is {cases.rows[0].name!r}")
    results = []
    for number, row in chosen:
        results.append(measured(row, cases.networks[row.network], number=number))
        print(line(results[-1]), flush=True)
    return results


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="write the tables into the page")
    mode.add_argument("--check", action="store_true", help="exit 1 if the page differs")
    mode.add_argument("--only", default="*", metavar="GLOB", help="rows by their label")
    parser.add_argument("source", type=Path, help="a source distribution or a checkout of peft")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the chosen rows; return the exit code."""
    chosen = _parsed(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    release = version("peft")
    try:
        cases = cases_in(read_tests(chosen.source))
        results = tried(cases, chosen.only)
        print(summary(results, version=release))
    except PeftRegressError as error:
        sys.exit(f"Error: {error}")
    if cases.unread:
        print(f"not read, since they are no literals: {', '.join(cases.unread)}")
    wrong = bool(cases.unread) or any(None in one.reasons.values() for one in results)
    if chosen.write or chosen.check:
        sys.path.append(str(ROOT / "tools" / "docs"))
        from page_tables import check_or_write, put

        page = PAGE.read_text(encoding="utf-8")
        found = tables(results, version=release)
        for name in TABLES:
            page = put(page, "upstream-rows", name, found[name])
        return check_or_write(PAGE, page, writes=chosen.write) or int(wrong)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
