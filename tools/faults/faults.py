"""Try the gate with faults, to see that it fails where a library or this project is wrong.

    python tools/faults/faults.py                    every fault, and the same cases without one
    python tools/faults/faults.py --only 'dora-*'    those that a glob fits
    python tools/faults/faults.py --list             their names, and what is wrong
    python tools/faults/faults.py --write            put the table into docs/detection.md

Each fault replaces one function in a process of its own, where its cases are measured; they are
judged by `baselines/`. Exit code 1 where nothing sees one and that is not stated, where one no
longer fits the code, or where the gate is not quiet without any. docs/detection.md says more.
"""

from __future__ import annotations

import argparse
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fault_catalogue import FAULTS
from fault_runs import Judge, control_complaints, judged, measure_all
from fault_table import counts, line, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fault_catalogue import Fault
    from fault_runs import Outcome

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "detection.md"


def chosen_faults(pattern: str) -> list[Fault]:
    """Return the faults that a glob fits; raises `SystemExit` where it fits none."""
    found = [fault for name, fault in FAULTS.items() if fnmatchcase(name, pattern)]
    if not found:
        sys.exit(
            f"no fault fits {pattern!r}; `python tools/faults/faults.py --list` prints their names"
        )
    return found


def tried(faults: Sequence[Fault], judge: Judge) -> tuple[list[Outcome], list[str]]:
    """Measure faults and, without any, their cases; return outcomes and complaints of the latter.

    Prints a line each.
    """
    cases = sorted({case for fault in faults for case in fault.cases})
    jobs = [*((None, [case]) for case in cases), *((fault, fault.cases) for fault in faults)]
    outcomes: list[Outcome] = []
    noise: list[str] = []
    for fault, run in measure_all(jobs):
        if fault is None:
            complaints = control_complaints(run, judge)
            noise += complaints
            print(f"control  {', '.join(complaints) or 'quiet'}", flush=True)
        else:
            outcomes.append(judged(fault, run, judge))
            print(line(outcomes[-1]), flush=True)
    state = "not quiet" if noise else "quiet"
    print(f"\nwithout a fault: {state} in {len(cases)} cases", *noise, sep="\n  ")
    return outcomes, noise


def put(page: str, content: str) -> str:
    """Return the page with the table in its place.

    Raises `SystemExit` with the markers to add where the page has no such place.
    """
    start, end = "<!-- faults -->", "<!-- /faults -->"
    place = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if len(place.findall(page)) != 1:
        sys.exit(f"{PAGE} must have one place for the table: add {start} and {end}")
    return place.sub(lambda _: f"{start}\n\n{content}\n\n{end}", page)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the chosen faults; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--only", default="*", metavar="GLOB", help="faults by name")
    mode.add_argument("--list", action="store_true", help="print the faults, try none")
    mode.add_argument("--write", action="store_true", help="put the table into docs/detection.md")
    chosen = parser.parse_args(arguments)
    faults = chosen_faults(chosen.only)
    if chosen.list:
        print("\n".join(f"{fault.name}: {fault.wrong}" for fault in faults))
        return 0
    outcomes, noise = tried(faults, Judge())
    print(counts(outcomes))
    missed = [f"{one.fault.name} {one.complaint}" for one in outcomes if one.complaint]
    if missed:
        print(f"not as it should be: {', '.join(missed)}")
    if chosen.write and not noise:
        PAGE.write_text(put(PAGE.read_text(), table(outcomes)))
    return int(bool(missed or noise))


if __name__ == "__main__":
    sys.exit(main())
