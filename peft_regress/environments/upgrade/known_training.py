"""What was trained already, for workers that need not train the same again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from peft_regress.gate.certificates import repeatable, trained_by
from peft_regress.runs.schema import Computation  # noqa: TC001  (msgspec reads it)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft_regress.gate.verdicts import Observation
    from peft_regress.runs.schema import Record


class KnownTraining(msgspec.Struct, frozen=True, kw_only=True):
    """What a case computed where it was trained."""

    computation: Computation
    run_name: str
    """The run that trained it, as reports name it."""

    def certifies(self, record: Record) -> bool:
        """Return whether a record that was not trained computes the same."""
        return record.is_certified and self.computation.equals(record.computation)


def known_training(observed: Observation | None) -> KnownTraining | None:
    """Return what one side trained; None if it says nothing that could be repeated."""
    computation = repeatable(observed)
    if observed is None or computation is None:
        return None
    return KnownTraining(computation=computation, run_name=trained_by(observed))


def known_trainings(observed: Mapping[str, Observation]) -> dict[str, KnownTraining]:
    """Return what one side trained of each case that need not be trained again, by id."""
    found = {name: known_training(one) for name, one in observed.items()}
    return {name: known for name, known in found.items() if known is not None}
