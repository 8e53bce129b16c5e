"""Whether a training keeps ever more memory: what one profiled step cannot see.

torch's tensors, and the graphs that C++ alone refers to, are allocated by malloc. glibc says how
many bytes of it are in use, in no time.
"""

import ctypes
import functools
import gc
from collections.abc import Callable
from typing import Final

from peft_regress.measure.invariants import facts
from peft_regress.metrics import format_value

FIRST_STEPS: Final = 3
"""Of the steps after these, none may keep memory: optimizers have made their state by then."""

# How much more may be in use at the end. Seen on 56 cases of both matrices in 30 steps: at most
# 14 KiB, since C++ and Python keep small objects for later use. A list of losses without their
# graphs grows by 0.3 to 0.5 KiB a step; a kept gradient or activation of 32 images by its size.
ALLOWED_BYTES: Final = 32 * 1024
ALLOWED_BYTES_PER_STEP: Final = 1024


class _Usage(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names.split())


@functools.cache
def _allocated() -> Callable[[], int] | None:
    """Return what asks the allocator for the bytes in use, in its arenas and mapped alone."""
    usage = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if usage is None:
        return None
    usage.restype = _Usage

    def allocated() -> int:
        found = usage()
        return int(found.uordblks + found.hblkhd)

    # Nothing is in use if another allocator is preloaded.
    return allocated if allocated() else None


class MemoryWatch:
    """Compares the memory in use after the first steps of a training and after its last."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._after_first = 0
        self._grown_bytes: int | None = None

    def stepped(self, step: int) -> None:
        """Look at the memory after one of these steps; they count from 1."""
        allocated = _allocated()
        if allocated is None:
            return
        if step == FIRST_STEPS:
            gc.freeze()  # garbage of before must stay, or it would make up for what is kept
            self._after_first = allocated()
        elif step == self._steps > FIRST_STEPS:
            gc.collect()  # what there is since then: it takes no time
            self._grown_bytes = allocated() - self._after_first

    def end(self) -> None:
        """Let garbage of before be collected again, however the training ended."""
        gc.unfreeze()

    @property
    @facts.judged
    def fact(self) -> None:
        """Check that the training kept no memory."""
        if _allocated() is None:
            raise facts.null("the allocator does not say what is in use, as glibc's 2.33 does")
        if self._grown_bytes is None:
            raise facts.null(f"only what is kept after step {FIRST_STEPS} counts")
        most = ALLOWED_BYTES + (self._steps - FIRST_STEPS) * ALLOWED_BYTES_PER_STEP
        if self._grown_bytes > most:
            grown, allowed = (format_value(size, "byte") for size in (self._grown_bytes, most))
            raise facts.false(
                f"from step {FIRST_STEPS} to step {self._steps} the memory in use grows by "
                f"{grown}; {allowed} would be usual",
                size=self._grown_bytes,
            )
