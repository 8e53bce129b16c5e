"""Write the table of states in docs/methods.md from the stored runs, or check it.

`page_tables.py` says how; the rest of the page is written by hand.
"""

import math
import sys
from collections.abc import Mapping
from typing import Final

from page_tables import ROOT, main_of_tables, recorded, require, state_table, table

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


def language(records: Mapping[str, Record]) -> str:
    """Return what each case of the language model learns and saves, the best learner first."""
    wanted = matrix_cases("language")
    require(wanted, records, matrix="language")
    found = {case.adapter_name: records[case.id] for case in wanted}
    values = {
        name: {metric: one.value for metric, one in record.metrics.items()}
        for name, record in found.items()
    }
    rows = []
    for name in sorted(found, key=lambda name: -values[name].get("score", -math.inf)):
        record, value = found[name], values[name]
        false = [f"`{one}`" for one, holds in record.invariants.items() if holds is False]
        cells = ["", "", "", "", record.status]
        if record.status == "ok":
            peak, ships = (
                f"{100 * value[metric] / values['full'][metric]:.0f} %"
                for metric in ("peak_bytes", "adapter_bytes")
            )
            trains = f"{value['trainable_params']:,}"
            state = f"false: {', '.join(false)}" if false else "ok"
            cells = [f"{-value['score']:.2f}", trains, peak, ships, state]
        rows.append([f"`{name}`", *cells])
    return table(("method", "bits a character", "trains", "peak bytes", "ships", "state"), rows)


if __name__ == "__main__":
    tables = {"states": lambda: states(recorded()), "language": lambda: language(recorded())}
    sys.exit(main_of_tables(PAGE, "methods", tables))
