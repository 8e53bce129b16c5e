"""Try the gate with faults: it must fail if a library, or this project, is wrong.

    python tools/faults/faults.py                    every fault, and the same cases without any
    python tools/faults/faults.py --only 'dora-*'    the faults that match a glob
    python tools/faults/faults.py --list             their names, and what is wrong
    python tools/faults/faults.py --write            write the table into docs/detection.md

Each fault replaces a function in a separate process, which measures the fault's cases; `baselines/`
judge them. Exit code 1 if no signal sees a fault and the catalogue does not say so, if a fault no
longer fits the code, or if the gate is not quiet without a fault. More in docs/detection.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fault_catalogue import FAULTS
from fault_runs import Judge, computations_of, control_complaints, judged, measure_all
from fault_table import certificates, counts, line, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fault_catalogue import Fault
    from fault_runs import Outcome

    from peft_regress.runs.schema import Computation

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "detection.md"


def chosen_faults(pattern: str) -> list[Fault]:
    """Return the faults that match a glob. Raises `SystemExit` if none does."""
    found = [fault for name, fault in FAULTS.items() if fnmatchcase(name, pattern)]
    if not found:
        sys.exit(
            f"no fault matches {pattern!r}; `python tools/faults/faults.py --list` prints the names"
        )
    return found


def tried(faults: Sequence[Fault], judge: Judge) -> tuple[list[Outcome], list[str]]:
    """Measure faults, and their cases without a fault; print one line for each.

    Returns the outcomes, and what the gate saw without a fault.
    """
    cases = sorted({case for fault in faults for case in fault.cases})
    outcomes: list[Outcome] = []
    noise: list[str] = []
    known: dict[str, Computation] = {}
    for _, run in measure_all([(None, [case]) for case in cases]):
        complaints = control_complaints(run, judge)
        noise += complaints
        known |= computations_of(run)
        print(f"control  {', '.join(complaints) or 'quiet'}", flush=True)
    for fault, run in measure_all([(fault, fault.cases) for fault in faults], known):
        assert fault is not None  # noqa: S101  (of these jobs)
        outcomes.append(judged(fault, run, judge))
        print(line(outcomes[-1]), flush=True)
    state = "not quiet" if noise else "quiet"
    print(f"\nwithout a fault: {state} in {len(cases)} cases", *noise, sep="\n  ")
    return outcomes, noise


def put(page: str, content: str) -> str:
    """Return the page with the table between its markers.

    Raises `SystemExit` with the markers to add if the page does not have them once.
    """
    start, end = "<!-- faults -->", "<!-- /faults -->"
    between = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if len(between.findall(page)) != 1:
        sys.exit(f"{PAGE} needs the markers of the table once: add {start} and {end}")
    return between.sub(lambda _: f"{start}\n\n{content}\n\n{end}", page)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the chosen faults; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--only", default="*", metavar="GLOB", help="faults by name")
    mode.add_argument("--list", action="store_true", help="print the faults, try none")
    mode.add_argument("--write", action="store_true", help="write the table into docs/detection.md")
    chosen = parser.parse_args(arguments)
    faults = chosen_faults(chosen.only)
    if chosen.list:
        print("\n".join(f"{fault.name}: {fault.wrong}" for fault in faults))
        return 0
    outcomes, noise = tried(faults, Judge())
    print(counts(outcomes))
    print(certificates(outcomes))
    missed = [f"{one.fault.name} {one.complaint}" for one in outcomes if one.complaint]
    if missed:
        print(f"not as it should be: {', '.join(missed)}")
    if chosen.write and not noise:
        PAGE.write_text(put(PAGE.read_text(), table(outcomes)))
    return int(bool(missed or noise))


if __name__ == "__main__":
    sys.exit(main())
