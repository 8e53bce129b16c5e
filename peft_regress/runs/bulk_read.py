"""Read many run files without their ledgers, on all cores: a storage has hundreds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from peft_regress.gc_pause import paused_gc
from peft_regress.runs.environment import usable_cores
from peft_regress.runs.run_file import RunFile, parse_run_file, read_content
from peft_regress.runs.schema import Ledger, Run, digest_of

_WORTH_A_POOL: Final = 24
"""Reading so many files takes longer than starting another process."""
_CHUNK: Final = 8
_AT_ONCE: Final = 64
"""How many files are read ahead: all of thousands would fill the memory."""


def read_without_ledgers(paths: Sequence[Path]) -> list[RunFile]:
    """Read run files without their ledgers, on all cores; equal metrics of neighbours are shared.

    Of pytest-benchmark's part only `datetime` is kept. Raises what `read_run_file` raises, for the
    first file of `paths` that cannot be trusted.
    """
    with paused_gc():
        found: list[RunFile] = []
        for file, _ in stream_without_ledgers(paths):
            run = sharing(file.run, found[-1].run) if found else file.run
            found.append(replace(file, run=run))
        return found


def stream_without_ledgers(paths: Sequence[Path]) -> Iterator[tuple[RunFile, str]]:
    """Yield the same files one by one, which share nothing, each with the digest of its bytes."""
    processes = min(usable_cores(), len(paths) // _WORTH_A_POOL)
    if processes < 2:  # noqa: PLR2004  (one other process is not faster)
        for path in paths:
            content = read_content(path)
            yield parse_run_file(path, content, ledgers=False), digest_of(content)
        return
    with ProcessPoolExecutor(processes) as pool:
        for first in range(0, len(paths), _AT_ONCE):
            some = paths[first : first + _AT_ONCE]
            encoded = pool.map(_read_encoded, some, chunksize=_CHUNK)
            for path, (content, document, digest) in zip(some, encoded, strict=True):
                run = msgspec.json.decode(content, type=Run)
                yield RunFile(path=path, run=run, document=document), digest


def _read_encoded(path: Path) -> tuple[bytes, dict[str, Any], str]:
    """Return a run and its date in a form that passes quickly to another process."""
    content = read_content(path)
    found = parse_run_file(path, content, ledgers=False)
    document = {"datetime": found.document.get("datetime", "")}
    return msgspec.json.encode(found.run), document, digest_of(content)


class _Document(msgspec.Struct):
    """A run file without pytest-benchmark's part."""

    peft_regress: Run


def skim(content: bytes) -> Run:
    """Return what a history shows of a run file that was checked before: no ledgers, no inputs."""
    run = msgspec.json.decode(content, type=_Document).peft_regress
    cases = {
        name: msgspec.structs.replace(
            record,
            ledger=record.ledger if isinstance(record.ledger, str) else Ledger(),
            inputs=msgspec.UNSET,
            trained=msgspec.UNSET,
            curve=msgspec.UNSET,
        )
        for name, record in run.cases.items()
    }
    return msgspec.structs.replace(run, cases=cases, ledgers={})


def sharing(run: Run, like: Run) -> Run:
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
