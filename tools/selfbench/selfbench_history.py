"""A history for `selfbench`: entries of one case, as if read from a storage."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.cases import Case
from peft_regress.metrics import METRICS, make_metric
from peft_regress.runs.run_file import RunFile
from peft_regress.runs.schema import (
    SCHEMA_VERSION,
    Acceptance,
    Ledger,
    Machine,
    Record,
    Run,
    Selection,
)

if TYPE_CHECKING:
    from peft_regress.metrics import Metric

__all__ = ["synthetic_history"]

_CASE = Case(task="shift", method="lora", architecture="resnet18", rank=4)
_MACHINE = Machine(digest="sha256:one", cpu="one", cores=1, threads=1, instruction_set="AVX2")


def synthetic_history(entries: int) -> list[RunFile]:
    """Return accepted entries with every metric of the table, changing within the bounds."""
    chance = random.Random(0)  # noqa: S311  (a measurement, no secret)
    return [
        RunFile(path=Path(f"{number:05d}_run.json"), run=_run(number, chance), document={})
        for number in range(entries)
    ]


def _run(number: int, chance: random.Random) -> Run:
    record = Record(
        case=_CASE,
        definition="sha256:one",
        status="ok",
        error=None,
        metrics={name: _metric(name, chance) for name in METRICS},
        invariants={},
        ledger=Ledger(),
    )
    minutes = divmod(number, 60)
    date = f"2026-01-{1 + minutes[0] // 24:02d}T{minutes[0] % 24:02d}:{minutes[1]:02d}:00+00:00"
    return Run(
        schema_version=SCHEMA_VERSION,
        environment={},
        machine=_MACHINE,
        selection=Selection(complete=True),
        cases={_CASE.id: record},
        accepted=Acceptance(reason="synthetic", date=date, role="baseline"),
    )


def _metric(name: str, chance: random.Random) -> Metric:
    kind = METRICS[name].kind
    if kind == "bytes":
        return make_metric(name, 100_000_000 + chance.randrange(50_000))
    if kind == "fingerprint":
        losses = [[1 + 1e-6 * chance.random() for _ in range(4)] for _ in range(3)]
        return make_metric(name, sum(seed[0] for seed in losses) / 3, list(losses))
    if kind in ("accuracy", "seconds"):
        seeds = [0.5 + 0.01 * chance.random() for _ in range(3)]
        return make_metric(name, sum(seeds) / 3, list(seeds))
    return make_metric(name, 1_000_000)
