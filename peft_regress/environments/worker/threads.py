"""Threads that each ask a worker process; an error or an interrupt ends them all."""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


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
