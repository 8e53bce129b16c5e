"""Keep Python's garbage collector out of measurements."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_gc() -> Iterator[None]:
    """Switch the garbage collector off meanwhile.

    It would decide when a cycle's memory is freed, and a full collection in a process with torch
    takes as long as half a cost profile. For the same reason there is no collection first.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
