"""The table of states of a matrix, from stored records, in docs/methods.md and docs/devices.md.

No torch at import.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from page_tables import table

from peft_regress.baselines.named_runs import named_cases
from peft_regress.baselines.references import read_references

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from peft_regress.cases import Case
    from peft_regress.runs.schema import Record

ROOT: Final = Path(__file__).resolve().parents[2]


def recorded(run: str | None) -> dict[str, Record]:
    """Return the records of a run, or the newest accepted records."""
    found = read_references(ROOT / "baselines") if run is None else named_cases(ROOT, run)
    return {name: observation.record for name, observation in found.items()}


def require(cases: Sequence[Case], records: Mapping[str, Record], *, matrix: str) -> None:
    """End with the command that makes the records if one is missing."""
    absent = [case.id for case in cases if case.id not in records]
    if absent:
        sys.exit(
            f"{len(absent)} of {len(cases)} cases have no record, such as {absent[0]}. Make them "
            f"with `tox run -e bench-{matrix}`, and accept the run or name it with --run."
        )


def state_table(
    cases: Sequence[Case], records: Mapping[str, Record], name_of: Callable[[Case], str]
) -> str:
    """Return the state of every method on every architecture; equal states share a row."""
    architectures = list(dict.fromkeys(case.architecture for case in cases))
    messages: dict[str, int] = {}
    cells: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for case in sorted(cases, key=lambda case: architectures.index(case.architecture)):
        cells[name_of(case)][case.architecture] = _state(records[case.id], messages)
    together: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for method, found in cells.items():
        # A method may be for some architectures only.
        together[tuple(found.get(name, "no case") for name in architectures)].append(f"`{method}`")
    rows = [[", ".join(names), *found] for found, names in together.items()]
    rows.sort(key=lambda row: (row[1:] != ["ok"] * len(architectures), row[0]))
    notes = "\n".join(f"{number}. {message}" for message, number in messages.items())
    return table(["method", *architectures], rows, names=1 + len(architectures)) + f"\n\n{notes}"


def _state(record: Record, messages: dict[str, int]) -> str:
    if record.error is not None:
        message = f"`{record.error.type}: {record.error.message}`"
        number = messages.setdefault(message, len(messages) + 1)
        return f"{record.status} ({number})"
    false = [f"`{name}`" for name, value in record.invariants.items() if value is False]
    return f"false: {', '.join(false)}" if false else "ok"
