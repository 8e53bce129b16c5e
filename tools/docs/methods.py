"""Write the tables of all methods from the stored runs, or check them: states, costs, losses.

`page_tables.py` says how; the rest of the pages is written by hand.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from page_tables import ROOT, main_of_tables, notes, recorded, require, state_of, state_table, table

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.catalogue.methods import Method
from peft_regress.runs.schema import Record

PAGE: Final = ROOT / "docs" / "methods.md"
SAVINGS: Final = ROOT / "benchmarks" / "savings.md"
PLAYS: Final = ROOT / "benchmarks" / "language" / "plays.md"
NETWORK: Final = "mobilenet_v3_small"
"""Whose costs are shown: it has a layer for each adapter type."""
DECODER: Final = "llama"
"""Of the language matrix: every adapter type has a case on it."""
IMAGES: Final = ("peak_bytes", "peak_bytes_b32", "adapter_bytes", "backward_flops")
LANGUAGE: Final = ("peak_bytes", "adapter_bytes", "backward_flops")

Records = Mapping[str, Record]


def rank_of(method: Method) -> int | None:
    """Return the rank that the table shows: 4, or the lowest of a method that has none of 4."""
    return 4 if 4 in method.ranks else min(method.ranks, default=None)


def image_cases(records: Records) -> list[Case]:
    """Return a case of every method on every architecture. Ends if one has no record."""
    wanted = [
        case
        for matrix in ("default", "extended")
        for case in matrix_cases(matrix, task="shift")
        if case.rank == rank_of(registry.get("method", case.method))
    ]
    require(wanted, records, matrix="extended")
    return wanted


def language_cases(records: Records) -> list[Case]:
    """Return the cases of the language matrix. Ends if one has no record."""
    wanted = matrix_cases("language")
    require(wanted, records, matrix="language")
    return wanted


def states(records: Records) -> str:
    """Return the state of every method on every architecture; equal states share a row."""
    return state_table(image_cases(records), records, lambda case: case.method)


def savings(records: Records) -> str:
    """Return what each method takes: first those of both families, the lowest peak first."""
    cases = [case for case in image_cases(records) if case.architecture == NETWORK]
    images = {case.adapter_name: records[case.id] for case in cases}
    language: dict[str, Record] = {}
    for case in language_cases(records):
        if case.architecture == DECODER:
            name = case.adapter_name
            # A setting of LoRA there may be a method on images.
            short = name.removeprefix("lora-")
            language[name if name in images or short not in images else short] = records[case.id]
    rows = [
        [f"`{name}`", *_shares(name, images, IMAGES), *_shares(name, language, LANGUAGE)]
        for name in {**images, **language}
    ]
    rows.sort(key=lambda row: ("" in row, not row[1], float(row[1] or row[5] or "inf")))
    costs = ("peak", "peak, batch 32", "ships", "backward", "language, peak", "ships", "backward")
    return table(["method", *costs], rows)


def _shares(name: str, records: Records, metrics: tuple[str, ...]) -> list[str]:
    """Return some costs in percent of full fine-tuning; blank where a case has none."""
    found = {} if name not in records else records[name].metrics
    return [
        f"{100 * found[one].value / records['full'].metrics[one].value:.1f}" if found else ""
        for one in metrics
    ]


def losses(records: Records) -> str:
    """Return what each case of a language model learns, by network, the best learner first."""
    rows, messages = [], dict[str, int]()
    networks: list[str] = []
    for case in language_cases(records):
        record = records[case.id]
        networks += [case.architecture] if case.architecture not in networks else []
        score, trains = (record.metrics.get(one) for one in ("score", "trainable_params"))
        cells = [f"{-score.value:.2f}" if score else "", f"{trains.value:,}" if trains else ""]
        name = f"`{case.adapter_name}`"
        rows.append([case.architecture, name, *cells, state_of(record, messages)])
    rows.sort(key=lambda row: (networks.index(row[0]), float(row[2] or math.inf)))
    return table(("network", "method", "bits", "trains", "state"), rows) + notes(messages)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, write or check the tables of each page; return the highest exit code."""
    found = recorded()
    tables = (
        (PAGE, "methods", {"states": lambda: states(found)}),
        (SAVINGS, "savings", {"methods": lambda: savings(found)}),
        (PLAYS, "language", {"cases": lambda: losses(found)}),
    )
    return max([main_of_tables(*one, arguments) for one in tables])


if __name__ == "__main__":
    sys.exit(main())
