"""Keep Python's garbage collector out of measurements."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


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
