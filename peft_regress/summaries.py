"""Read many run files without their ledgers: what a history over hundreds of them needs.

A ledger is nine tenths of a run file. A file whose content digest holds as it stands is taken at
its word, and only its metrics are looked at one by one; any other one goes the whole way of
`read_run_file`, which finds out what is wrong with it, and says so.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import msgspec

from peft_regress.collector import quiet_collector
from peft_regress.errors import InputError
from peft_regress.files import read_bytes
from peft_regress.records import (
    SCHEMA_VERSION,
    Ledger,
    Run,
    canonical_json,
    check_acceptance,
    check_consistent,
    check_finite,
    digest_of,
)
from peft_regress.run_files import RunFile, read_run_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["read_summaries", "read_summary"]

_WORTH_A_POOL: Final = 24
"""Files that take longer to read here than other processes take to start."""
_CHUNK: Final = 8
_KEY: Final = b'":'
"""How a key of an object ends, in a file as it is written and as msgspec writes it."""


def read_summaries(paths: Sequence[Path]) -> list[RunFile]:
    """Read run files, each without its ledgers, on all cores.

    Of pytest-benchmark's part `datetime` alone is kept. Raises what `read_run_file` raises, for the
    first file in the order of `paths` that cannot be trusted.
    """
    processes = min(len(os.sched_getaffinity(0)), len(paths) // _WORTH_A_POOL)
    if processes < 2:  # noqa: PLR2004  (one other process is no faster than this one)
        return [read_summary(path) for path in paths]
    with ProcessPoolExecutor(processes) as pool:
        encoded = pool.map(_read_encoded, paths, chunksize=_CHUNK)
        found: list[RunFile] = []
        with quiet_collector():
            for path, summary in zip(paths, encoded, strict=True):
                found.append(_decoded(path, summary, like=found[-1].run if found else None))
    return found


def read_summary(path: Path) -> RunFile:
    """Read one run file without its ledgers."""
    with quiet_collector():
        found = _quickly_read(path)
    if found is None:
        whole = read_run_file(path)
        run = _without_ledgers(whole.run)
        found = RunFile(path=path, run=run, document=_kept(whole.document))
    return found


def _quickly_read(path: Path) -> RunFile | None:
    """Return a file whose content is what its digest says; None where there is any doubt."""
    try:
        content = read_bytes(path)
        document = msgspec.json.decode(content)
        ours = document.pop("peft_regress")
        digest = ours.pop("content_digest")
        encoded = canonical_json(ours)
        # Two more keys: those that were taken out. Were there others, one stands twice.
        keys = sum(text.count(_KEY) for text in (encoded, msgspec.json.encode(document))) + 2
        is_as_written = digest_of(encoded) == digest and content.count(_KEY) == keys
        if ours["schema_version"] != SCHEMA_VERSION or not is_as_written:
            return None
        for record in ours["cases"].values():
            record["ledger"] = {}
        run = msgspec.convert({**ours, "content_digest": digest}, Run)
        for name, found in run.cases.items():
            if name != found.case.id:
                return None
            check_finite(found.metrics, name)
            check_consistent(found, name)
        check_acceptance(run)
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, InputError,
    ):  # fmt: skip
        return None
    return RunFile(path=path, run=run, document=_kept(document))


def _without_ledgers(run: Run) -> Run:
    cases = {
        name: msgspec.structs.replace(record, ledger=Ledger()) for name, record in run.cases.items()
    }
    return msgspec.structs.replace(run, cases=cases)


def _kept(document: dict[str, Any]) -> dict[str, Any]:
    return {"datetime": document.get("datetime", "")}


def _read_encoded(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return a summary in a form that is quick to hand to another process."""
    found = read_summary(path)
    return msgspec.json.encode(found.run), found.document


def _decoded(path: Path, found: tuple[bytes, dict[str, Any]], *, like: Run | None) -> RunFile:
    content, document = found
    run = msgspec.json.decode(content, type=Run)
    return RunFile(path=path, run=_sharing(run, like) if like else run, document=document)


def _sharing(run: Run, like: Run) -> Run:
    """Return a run that has what is equal in both from the other one: most numbers never move."""
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
