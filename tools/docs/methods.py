"""Write the table of states in docs/methods.md from the stored runs, or check it.

`page_tables.py` says how; the rest of the page is written by hand.
"""

import sys
from collections.abc import Mapping
from typing import Final

from page_tables import ROOT, main_of_tables, recorded, require, state_table

from peft_regress import registry
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.catalogue.methods import Method
from peft_regress.runs.schema import Record

PAGE: Final = ROOT / "docs" / "methods.md"


def rank_of(method: Method) -> int | None:
    """Return the rank that the table shows: 4, or the lowest of a method that has none of 4."""
    return 4 if 4 in method.ranks else min(method.ranks, default=None)


def states(records: Mapping[str, Record]) -> str:
    """Return the state of every method on every architecture; equal states share a row."""
    wanted = [
        case
        for matrix in ("default", "extended")
        for case in matrix_cases(matrix, task="shift")
        if case.rank == rank_of(registry.get("method", case.method))
    ]
    require(wanted, records, matrix="extended")
    return state_table(wanted, records, lambda case: case.method)


if __name__ == "__main__":
    sys.exit(main_of_tables(PAGE, "methods", {"states": lambda: states(recorded())}))
