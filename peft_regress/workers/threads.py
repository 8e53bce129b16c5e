"""Threads that each ask a worker process; an error or an interrupt ends them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from peft_regress.workers.process import WorkerProcess


class RunningWorkers:
    """The worker processes of several threads, which can all be ended at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: set[WorkerProcess] = set()
        self._is_stopped = threading.Event()

    @property
    def are_stopped(self) -> bool:
        """Whether all were ended; one that starts later ends at once."""
        return self._is_stopped.is_set()

    def add(self, worker: WorkerProcess) -> None:
        """Take a process that has just been started."""
        with self._lock:
            self._workers.add(worker)
        if self.are_stopped:
            worker.kill()

    def close(self, worker: WorkerProcess) -> None:
        """End one process and close its streams."""
        with self._lock:
            self._workers.discard(worker)
        worker.close()

    def stop(self) -> None:
        """End every process, also while other threads wait for their answers."""
        self._is_stopped.set()
        with self._lock:
            for worker in self._workers:
                worker.kill()


def in_threads(
    work: Sequence[Callable[[], None]], *, stop: Callable[[], None], prefix: str
) -> None:
    """Call each function in a thread of its own and wait for all of them.

    stop: makes the functions return; it is called on an error of any of them, which is raised, and
    on an interrupt. prefix: begins the names of the threads.
    """
    with ThreadPoolExecutor(max_workers=len(work), thread_name_prefix=prefix) as pool:
        try:
            running = [pool.submit(one) for one in work]
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            for thread in done:
                thread.result()
        except BaseException:
            stop()
            raise
