"""Facts that must hold in every version of a library: costs alone miss changed functions.

Each is true, false, or None if it does not apply. `InvariantWatch` lists them. They are exact, so
one seed is enough.
"""

from peft_regress.measure.invariants.outputs import (
    HALF_IDENTITY_TOLERANCE,
    IDENTITY_TOLERANCE,
    MERGE_TOLERANCE,
    RELOAD_TOLERANCE,
    STORED_TOLERANCE,
    UNMERGE_TOLERANCE,
)
from peft_regress.measure.invariants.saving import StoredOutput
from peft_regress.measure.invariants.watch import InvariantWatch

__all__ = [
    "HALF_IDENTITY_TOLERANCE",
    "IDENTITY_TOLERANCE",
    "MERGE_TOLERANCE",
    "RELOAD_TOLERANCE",
    "STORED_TOLERANCE",
    "UNMERGE_TOLERANCE",
    "InvariantWatch",
    "StoredOutput",
]
