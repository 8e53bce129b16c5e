"""Import peft and galore_torch without a misleading warning of a library that they import."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import ModuleType

# bitsandbytes warns at import that a 4-bit kernel is not installed. Nothing here uses 4 bits, and
# its advice to install `kernels` would mislead readers of the report.
_NOISY_LOGGER: Final = "bitsandbytes.backends.cpu.ops"
_NOISE: Final = "Failed to load CPU gemm_4bit_forward"


def import_quietly(name: str) -> ModuleType:
    """Import a module, and drop one irrelevant line of the log from now on.

    Also later, since some releases of peft import bitsandbytes only when they wrap a model.
    """
    logging.getLogger(_NOISY_LOGGER).addFilter(_is_signal)
    return importlib.import_module(name)


def _is_signal(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NOISE)
