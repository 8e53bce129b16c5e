"""Read many run files without their ledgers, on all cores, for a history of hundreds."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import msgspec

from peft_regress.gc_pause import paused_gc
from peft_regress.runs.environment import usable_cores
from peft_regress.runs.run_file import RunFile, read_run_file
from peft_regress.runs.schema import Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_WORTH_A_POOL: Final = 24
"""Reading so many files takes longer than starting another process."""
_CHUNK: Final = 8


def read_without_ledgers(paths: Sequence[Path]) -> list[RunFile]:
    """Read run files without their ledgers, on all cores.

    Of pytest-benchmark's part only `datetime` is kept. Raises what `read_run_file` raises, for the
    first file of `paths` that cannot be trusted.
    """
    processes = min(usable_cores(), len(paths) // _WORTH_A_POOL)
    if processes < 2:  # noqa: PLR2004  (one other process is not faster)
        return [read_run_file(path, ledgers=False) for path in paths]
    with ProcessPoolExecutor(processes) as pool:
        encoded = pool.map(_read_encoded, paths, chunksize=_CHUNK)
        found: list[RunFile] = []
        with paused_gc():
            for path, content in zip(paths, encoded, strict=True):
                found.append(_decoded(path, content, like=found[-1].run if found else None))
    return found


def _read_encoded(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return a run and its date in a form that passes quickly to another process."""
    found = read_run_file(path, ledgers=False)
    return msgspec.json.encode(found.run), {"datetime": found.document.get("datetime", "")}


def _decoded(path: Path, found: tuple[bytes, dict[str, Any]], *, like: Run | None) -> RunFile:
    content, document = found
    run = msgspec.json.decode(content, type=Run)
    return RunFile(path=path, run=_sharing(run, like) if like else run, document=document)


def _sharing(run: Run, like: Run) -> Run:
    """Return a run that shares equal metrics with another one: most numbers never change."""
    cases = {}
    for name, record in run.cases.items():
        other = like.cases.get(name)
        if other is None:
            cases[name] = record
            continue
        metrics = {
            metric: known if (known := other.metrics.get(metric)) == found else found
            for metric, found in record.metrics.items()
        }
        cases[name] = msgspec.structs.replace(record, metrics=metrics)
    environment = like.environment if like.environment == run.environment else run.environment
    return msgspec.structs.replace(run, cases=cases, environment=environment)
