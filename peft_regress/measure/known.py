"""What a reference says of its training, so that an equal one need not be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft_regress.runs.schema import Computation


@dataclass(frozen=True, kw_only=True)
class Known:
    """The computation of a case in a run that trained it."""

    computation: Computation
    run_name: str
    """The run, as reports name it."""
