"""Write the table of the language matrix from the stored run, or check it; see `page_tables.py`."""

import math
import sys
from collections.abc import Mapping
from typing import Final

from page_tables import ROOT, main_of_tables, recorded, require, table

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.runs.schema import Record

PAGE: Final = ROOT / "benchmarks" / "language" / "plays.md"


def cases(records: Mapping[str, Record]) -> str:
    """Return what each case learns and saves, by network, the best learner first."""
    wanted = matrix_cases("language")
    require(wanted, records, matrix="language")
    values = {
        case.id: {metric: one.value for metric, one in records[case.id].metrics.items()}
        for case in wanted
    }
    rows = []
    networks = list(dict.fromkeys(case.architecture for case in wanted))
    for case in sorted(
        wanted,
        key=lambda one: (networks.index(one.architecture), -values[one.id].get("score", -math.inf)),
    ):
        record, value = records[case.id], values[case.id]
        false = [f"`{one}`" for one, holds in record.invariants.items() if holds is False]
        cells = ["", "", "", "", record.status]
        if record.status == "ok":
            full = values[f"{case.task}/full/{case.architecture}"]
            peak, ships = (
                f"{100 * value[metric] / full[metric]:.0f} %"
                for metric in ("peak_bytes", "adapter_bytes")
            )
            trains = f"{value['trainable_params']:,}"
            state = f"false: {', '.join(false)}" if false else "ok"
            cells = [f"{-value['score']:.2f}", trains, peak, ships, state]
        rows.append([case.architecture, f"`{case.adapter_name}`", *cells])
    heads = ("network", "method", "bits", "trains", "peak bytes", "ships", "state")
    return table(heads, rows)


if __name__ == "__main__":
    sys.exit(main_of_tables(PAGE, "language", {"cases": lambda: cases(recorded())}))
