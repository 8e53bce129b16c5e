"""Judge what both sides gave: one row for each thing that the protocol asks for. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from peft_fuzz.checklist.judge_adapters import (
    checkpoint_row,
    config_rows,
    type_rows,
)
from peft_fuzz.checklist.judge_outputs import listed, output_rows, parts_of
from peft_fuzz.checklist.judge_training import cost_rows, loss_rows, time_row
from peft_fuzz.checklist.messages import Inspected
from peft_fuzz.checklist.rows import Detail, Judged
from peft_fuzz.checklist.running import Result
from peft_regress.gate.paired_times import Estimate


def judge(
    results: Sequence[Result],
    inspected: tuple[Inspected, Inspected],
    times: Mapping[str, Estimate | str],
) -> Judged:
    """Return the rows of a comparison."""
    parts = [part for result in results for part in parts_of(result)]
    outputs = list(output_rows(parts))
    rows = (
        *outputs,
        *type_rows(results),
        checkpoint_row(results, parts),
        *config_rows(inspected, outputs),
        *loss_rows(results),
        *cost_rows(results),
        *(time_row(name, estimate) for name, estimate in times.items()),
    )
    # Where the base itself fails to train, or its step cannot be counted.
    refused = [
        Detail(str(result.situation), said)
        for stage in ("training", "cost")
        for result in results
        if (said := result.sides[0].failure_at(stage))
    ]
    effects = [result.sides[0].effect for result in results if result.found]
    return Judged(
        rows=rows,
        unsupported=(*listed(parts, "unsupported"), *refused),
        gained=tuple(listed(parts, "gained")),
        smallest_effect=min(effects, default=math.nan),
    )
