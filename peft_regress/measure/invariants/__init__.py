"""Facts that must hold whatever a library's version: costs alone miss silent changes of function.

Each is true, false, or None where it does not apply. `watch` has the list. Checked on one seed,
since they are exact.
"""

from peft_regress.measure.invariants.outputs import (
    IDENTITY_TOLERANCE,
    MERGE_TOLERANCE,
    RELOAD_TOLERANCE,
    STORED_TOLERANCE,
)
from peft_regress.measure.invariants.watch import InvariantWatch, StoredOutput

__all__ = [
    "IDENTITY_TOLERANCE",
    "MERGE_TOLERANCE",
    "RELOAD_TOLERANCE",
    "STORED_TOLERANCE",
    "InvariantWatch",
    "StoredOutput",
]
