"""Keep Python's garbage collector out of what is measured."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["paused_gc"]


@contextmanager
def paused_gc() -> Iterator[None]:
    """Keep the collector from running meanwhile.

    It would choose the moment at which a cycle's memory is freed, and a full collection of a
    process with torch in it takes as long as half a cost profile. What was alive before is not
    collected first, for the same reason.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
