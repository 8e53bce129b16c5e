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
    sys.exit(main_of_tables(PAGE, "language", {"cases": lambda: cases(recorded())}))
