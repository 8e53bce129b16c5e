"""Import peft and galore_torch without a misleading warning of a library that they import."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from peft_regress.imports import drop_noise

if TYPE_CHECKING:
    from types import ModuleType


def import_quietly(name: str) -> ModuleType:
    """Import a module, and drop one irrelevant line of the log from now on."""
    drop_noise()
    return importlib.import_module(name)
