"""The variables of a program that is to measure, or to show, what libraries do."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["variables"]

# What a test runner or a shell says to itself and not to the libraries.
_PRIVATE: Final = ("PYTEST_", "COV_CORE_", "PYTHONSTARTUP", "PYTHONINSPECT")


def variables() -> dict[str, str]:
    """Return the variables as here, without those of a test runner."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
    # The hub is asked for nothing: what is measured must not depend on a network.
    return {"HF_HUB_OFFLINE": "1", **kept, "PYTHONHASHSEED": "0"}
