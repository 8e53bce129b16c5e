"""A filled adapter that is switched off and on again, and one in eval and in train mode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.invariants.outputs import (
    IDENTITY_TOLERANCE,
    RELOAD_TOLERANCE,
    Outputs,
    attempt,
)
from peft_regress.measure.invariants.tensors import trainable
from peft_regress.measure.objective import evaluated

if TYPE_CHECKING:
    from peft_regress.measure.adapters import Adapter
    from peft_regress.measure.invariants.filled import Filled
    from peft_regress.measure.invariants.probe import Probe


def switched_off(
    filled: Filled, of_base: Outputs, *, adapter: Adapter, probe: Probe
) -> dict[str, Fact]:
    """Compare the model with the adapter off with its base, and with what it was once it is on."""
    before = trainable(filled.model)
    disabled, worked = attempt(filled.disabled_outputs)
    if disabled is None:
        off = toggled = worked
    else:
        toggled = _toggled(filled, before)
        off = probe.same(
            disabled,
            of_base,
            tolerance=IDENTITY_TOLERANCE,
            layers=lambda: (filled.disabled_layers(probe.base), probe.layers(probe.base)),
        )
    if adapter.alters_base:
        off = Fact.null("wrapping alters the base's weights")
    return {"disabled_equals_base": off, "toggling_keeps_trainable": toggled}


def _toggled(filled: Filled, before: Mapping[str, tuple[int, ...]]) -> Fact:
    """Return whether the enabled adapter is as before, also after `eval()` and `train()`.

    before: what trained.
    """
    with evaluated(filled.model):
        filled.model.train()
    if wrong := sorted(dict(trainable(filled.model).items() ^ before.items())):
        return Fact.unless(wrong)
    loss, worked = attempt(filled.loss)
    if loss is None:
        return worked
    wanted = filled.checked_losses[-1]
    if math.isclose(loss, wanted, rel_tol=RELOAD_TOLERANCE):
        return Fact(holds=True)
    return Fact.false(
        f"the loss of the probe was {wanted:.7g} before, and is {loss:.7g} after it",
        size=abs(wanted - loss) / max(abs(wanted), abs(loss)),
    )
