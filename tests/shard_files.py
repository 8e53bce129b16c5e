"""Run files as the shards of one run write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builders import OTHER_MACHINE, VALUES, make_record, make_run, write_run

from peft_regress.catalogue.matrix import matrix_cases, shard_of
from peft_regress.runs.schema import Selection

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_shards"]


def write_shards(folder: Path, *, lost=(), skipped=(), count=4, metrics=VALUES, cases=None) -> Path:
    """Write one run file per shard; cases in `lost` have no record, shards in `skipped` no file.

    `cases` defaults to the default matrix. The second shard ran on another machine.
    """
    cases = matrix_cases("default") if cases is None else cases
    shards = shard_of(cases, count=count, weights={})
    for index in range(1, count + 1):
        here = {name for name, shard in shards.items() if shard == index}
        selection = Selection(
            complete=False,
            narrowed_by=[f"--regress-shard {index}/{count}"],
            not_selected=sorted(shards.keys() - here),
        )
        records = [make_record(name, metrics) for name in sorted(here - set(lost))]
        if index not in skipped:
            more = {"machine": OTHER_MACHINE} if index == 2 else {}
            write_run(
                folder / f"shard-{index}.json", make_run(*records, selection=selection, **more)
            )
    return folder
