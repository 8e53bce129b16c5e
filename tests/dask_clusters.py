"""Dask clusters of this machine whose nodes measure by a program of the test."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from typing import TYPE_CHECKING, Any

from distributed import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PRELOAD = """
from types import SimpleNamespace
from peft_regress.environments.cluster import node
node.sys = SimpleNamespace(executable={python!r})
"""


@contextlib.contextmanager
def local_cluster(
    folder: Path,
    *,
    workers: int = 2,
    python: str | None = None,
    resources: dict[str, float] | None = None,
    **settings: Any,
) -> Iterator[LocalCluster]:
    """Start a scheduler and workers, each a process; `python` measures in place of this one."""
    preload = []
    if python is not None:
        file = folder / "preload.py"
        file.write_text(_PRELOAD.format(python=python))
        preload = [str(file)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = LocalCluster(
            n_workers=workers,
            **{"threads_per_worker": 1, **settings},
            resources={"slot": 1} if resources is None else resources,
            preload=preload,
            dashboard_address=":0",
            local_directory=str(folder),
            memory_limit=0,
            silence_logs=False,
        )
        try:
            yield cluster
        finally:
            cluster.close(timeout=20)


def processes(cluster: LocalCluster) -> list[int]:
    """Return the process of each worker that lives."""
    return [nanny.process.pid for nanny in cluster.workers.values() if nanny.process]


def kill(process: int) -> None:
    """Kill a process, if it lives."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
