"""Take the convolution rows of peft's own tests through this project's ledger and invariants.

    python fuzz/tools/upstream_rows.py                   every row, and what the claims say of it
    python fuzz/tools/upstream_rows.py --only 'Conv2d*'  the rows whose label matches a glob
    python fuzz/tools/upstream_rows.py --json FILE       also write all that was measured
    python fuzz/tools/upstream_rows.py --write           write the tables of docs/upstream-rows.md
    python fuzz/tools/upstream_rows.py --check           exit 1 if the page has other tables

Upstream's rows are an oracle from outside: nobody here chose them. They come at run time from the
source distribution of the installed release (pip downloads it; or `--source`: the file, or a
checkout). Each row is measured like a fine-tuning of a user: its costs split by module, and the
invariants. Exit code 1 if a claim does not hold and `upstream_claims.py` does not say why, or if a
row could not be read.
"""

from __future__ import annotations

import argparse
import os
import sys
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from upstream_measuring import measured
from upstream_source import cases_in, read_release, read_tests
from upstream_tables import TABLES, as_json, line, summary, tables

from peft_regress.errors import PeftRegressError
from peft_regress.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upstream_measuring import Result
    from upstream_source import UpstreamCases

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "fuzz" / "docs" / "upstream-rows.md"


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
    parser.add_argument(
        "--source", type=Path, metavar="PATH", help="a source distribution or a checkout of peft"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the chosen rows; return the exit code."""
    chosen = _parsed(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    release = version("peft")
    try:
        text = read_tests(chosen.source) if chosen.source else read_release(release)
        cases = cases_in(text)
        results = tried(cases, chosen.only)
        print(summary(results, version=release))
        if chosen.json:
            content = as_json(results, version=release, unread=cases.unread)
            write_atomic(chosen.json, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
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
