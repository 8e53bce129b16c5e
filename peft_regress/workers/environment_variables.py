"""The environment variables of a program that measures, or shows, what libraries do."""

from __future__ import annotations

import os
from typing import Final

# They are for a test runner or a shell, not for the libraries.
_PRIVATE: Final = ("PYTEST_", "COV_CORE_", "PYTHONSTARTUP", "PYTHONINSPECT")


def variables() -> dict[str, str]:
    """Return the variables of this process without those of a test runner."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
    # No request to the hub: what is measured must not depend on a network. The wide filled loss is
    # of two threads: on a busy machine each would use up the core that the other one waits for.
    usual = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
    return {**usual, **kept, "PYTHONHASHSEED": "0"}
