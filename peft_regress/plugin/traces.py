"""Keep torch's structured trace out of pytest's log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Final

_TRACE: Final = "torch.__trace"
"""The logger whose handlers get what torch traces. Its messages are empty: what they say is meant
for torch's own handler, which is there if TORCH_TRACE names a folder."""


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Detach other handlers than torch's from its trace, so that torch need not make one.

    pytest attaches its own to every logger that does not propagate, and would show an empty line
    for each record below a test that fails.
    """
    logger = logging.getLogger(_TRACE)
    others = [each for each in logger.handlers if not type(each).__module__.startswith("torch.")]
    for handler in others:
        logger.removeHandler(handler)
    try:
        yield
    finally:
        for handler in others:
            logger.addHandler(handler)
