"""Dask clusters of this machine whose nodes measure by a program of the test."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import warnings

from distributed import Client, LocalCluster
from fake_interpreters import wait_until

_PYTHON = sys.executable  # tests let another program stand for it
_PRELOAD = """
from types import SimpleNamespace
from peft_regress.workers import node
node.sys = SimpleNamespace(executable={python!r})
"""


@contextlib.contextmanager
def local_cluster(folder, *, workers=2, python=None, resources=None, **settings):
    """Start a scheduler and workers, each a process; `python` measures in place of this one."""
    preload = [] if python is None else [preload_file(folder, python)]
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


def preload_file(folder, python):
    """Write what lets the workers of a cluster measure by another program; return its path."""
    file = folder / "preload.py"
    file.write_text(_PRELOAD.format(python=python))
    return str(file)


def processes(cluster):
    return [nanny.process.pid for nanny in cluster.workers.values() if nanny.process]


class StartedCluster:
    """A scheduler and workers as a user starts them, whose processes a test may kill."""

    def __init__(self, folder, python, *, workers):
        folder.mkdir()
        self._folder = folder
        self._file = folder / "scheduler.json"
        self._preload = preload_file(folder, python)
        words = ["scheduler", "--port", "0", "--no-dashboard"]
        self.scheduler = self._dask(*words, "--scheduler-file", str(self._file))
        wait_until(lambda: self._file.exists() and self._file.read_text().endswith("}"))
        self.address = json.loads(self._file.read_text())["address"]
        self.workers = [self._worker() for _ in range(workers)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in (self.scheduler, *self.workers):
            process.kill()
            process.wait()

    def replace_worker(self, draw):
        """Kill a worker, whatever it does, and start another one; return when it works."""
        worker = self.workers.pop(draw.randrange(len(self.workers)))
        worker.kill()
        worker.wait()
        self.workers.append(self._worker())
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(len(self.workers), timeout=120)

    def _worker(self):
        words = ["worker", "--scheduler-file", str(self._file), "--nthreads", "1", "--no-nanny"]
        words += ["--no-dashboard", "--resources", "slot=1", "--preload", self._preload]
        return self._dask(*words)

    def _dask(self, *words):
        return subprocess.Popen(
            [_PYTHON, "-m", "dask", *words],
            cwd=self._folder,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
