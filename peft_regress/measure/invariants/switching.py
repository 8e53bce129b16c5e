"""A filled adapter that is switched off and on again, and beside a second one.

The second one must not touch the first, nor leave anything. Judged by the loss of the probe, since
the filled losses say already what the first one computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from peft_regress.measure.adapters import Adapter
from peft_regress.measure.adapters.tuner import SECOND, Tuner
from peft_regress.measure.invariants.facts import Fact, listed
from peft_regress.measure.invariants.filled import FILL_SEEDS, Filled
from peft_regress.measure.invariants.outputs import (
    IDENTITY_TOLERANCE,
    RELOAD_TOLERANCE,
    Outputs,
    attempt,
    raised,
    told_of,
)
from peft_regress.measure.invariants.tensors import copies_of, moved, named_tensors, trainable
from peft_regress.measure.objective import evaluated

if TYPE_CHECKING:
    from torch import Tensor

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


_BESIDE_ANOTHER: Final = ("adapters_do_not_leak", "delete_leaves_nothing")
_OTHER: Final = 1  # the fill that the first adapter gets meanwhile: not the last one
_VISIBLE: Final = 1e-4
_SEED: Final = len(FILL_SEEDS)  # of the second adapter: none of the first one's


def second_adapter(filled: Filled, adapter: Adapter) -> dict[str, Fact]:
    """Add, fill, activate and delete a second adapter; the first one is filled otherwise after it.

    filled: is not used for anything else but what lasts through this.
    """
    tuner = Tuner.of(filled.model)
    if tuner is None:
        return dict.fromkeys(_BESIDE_ANOTHER, Fact.null("it is no adapter in layers of peft"))
    if adapter.alters_base:
        return dict.fromkeys(_BESIDE_ANOTHER, Fact.null("adding one alters the base's weights"))
    first, before, trains = tuner.active, copies_of(filled.model), trainable(filled.model)
    try:
        tuner.add()
    except (ValueError, NotImplementedError) as error:
        return dict.fromkeys(
            _BESIDE_ANOTHER, Fact.null(f"peft refuses a second one: {told_of(error)}")
        )
    except Exception as error:  # noqa: BLE001  (whatever a library raises, the fact does not hold)
        return dict.fromkeys(_BESIDE_ANOTHER, raised(error))
    leak, asked = attempt(lambda: _leak(filled, tuner, first, before))
    left, deleted = attempt(lambda: _left(filled, tuner, first, before, trains))
    return dict(zip(_BESIDE_ANOTHER, (leak or asked, left or deleted), strict=True))


def _leak(filled: Filled, tuner: Tuner, first: str, before: Mapping[str, Tensor]) -> Fact:
    """Return what one adapter does to the other."""
    added = {
        name: parameter for name, parameter in filled.model.named_parameters() if name not in before
    }
    if not added:
        return Fact.false("a second adapter gets no parameters")
    filled.draw(added, seed=_SEED)
    if changed := moved(before, named_tensors(filled.model)):
        return Fact.false(
            f"adding and filling a second one changes {listed(changed)}", tensors=changed
        )
    return _interplay(filled, tuner, first, added)


def _interplay(filled: Filled, tuner: Tuner, first: str, added: Mapping[str, Tensor]) -> Fact:
    """Return what is wrong about the second adapter's output, and about the first one's after it.

    added: the second one's parameters.
    """
    tuner.switch(SECOND)
    its_loss = filled.loss()
    if not math.isfinite(its_loss):
        return Fact.false(f"with a second one active, the loss of the probe is {its_loss}")
    if its_loss == filled.checked_losses[-1] and _shows(filled):
        return Fact.false(
            f"with a second one active, the loss of the probe is {its_loss}, as without it"
        )
    its_tensors = {name: parameter.detach().clone() for name, parameter in added.items()}
    filled.fill(FILL_SEEDS[_OTHER])
    if changed := moved(its_tensors, named_tensors(filled.model)):
        return Fact.false(f"filling the first one changes {listed(changed)}", tensors=changed)
    depends = "what a second one computes depends on the numbers in the first one"
    if wrong := _other_loss(depends, filled.loss(), its_loss):
        return wrong
    tuner.switch(first)
    first_loss = filled.checked_losses[_OTHER]
    switched = "switched to a second one and back, the first one computes something else"
    if wrong := _other_loss(switched, filled.loss(), first_loss):
        return wrong
    _merge_beside(filled, tuner)
    return _ignored(filled, tuner, first, {first: first_loss, SECOND: its_loss})


def _merge_beside(filled: Filled, tuner: Tuner) -> None:
    """Merge the first adapter, for a comparison with merging it when there is no other.

    What is wrong about it is a matter of `unmerge_restores_base`.
    """
    before = copies_of(filled.model)

    def merged() -> float:
        tuner.merge()
        loss = filled.loss()
        tuner.unmerge()
        return loss

    filled.loss_merged_beside, worked = attempt(merged)
    if not worked.holds:
        attempt(tuner.unmerge)  # of the layers that were merged
    for name, tensor in named_tensors(filled.model).items():
        tensor.data = before[name]


def _ignored(filled: Filled, tuner: Tuner, first: str, alone: Mapping[str, float]) -> Fact:
    """Return which adapter has no part in the output of two active ones.

    alone: the loss with one of them active, by name.
    """
    try:
        tuner.switch_to_both(first)
        both = filled.loss()
    except (ValueError, NotImplementedError):  # peft refuses two active ones
        return Fact(holds=True)
    if _shows(filled):
        for name, loss in alone.items():
            if _same(both, loss):
                return Fact.false(f"with two active ones, the output is that of {name} alone")
    return Fact(holds=True)


def _left(
    filled: Filled,
    tuner: Tuner,
    first: str,
    before: Mapping[str, Tensor],
    trains: Mapping[str, tuple[int, ...]],
) -> Fact:
    """Return what there still is of the second adapter after it was deleted."""
    tuner.switch(first)
    filled.fill(FILL_SEEDS[_OTHER])
    tuner.delete()
    if left := tuner.traces():
        return Fact.false(f"these still name the deleted one: {listed(left)}", tensors=left)
    if others := sorted(named_tensors(filled.model).keys() ^ before.keys()):
        return Fact.false(f"not the tensors of before: {listed(others)}", tensors=others)
    if others := sorted(dict(trainable(filled.model).items() ^ trains.items())):
        return Fact.false(f"not the trainable set of before: {listed(others)}", tensors=others)
    wanted = filled.checked_losses[_OTHER]
    wrong = _other_loss("the first one computes something else", filled.loss(), wanted)
    return wrong or Fact(holds=True)


def _shows(filled: Filled) -> bool:
    """Return whether another fill moves the loss by far more than its last digits."""
    highest, lowest = max(filled.checked_losses), min(filled.checked_losses)
    return highest - lowest > _VISIBLE * abs(highest)


def _other_loss(note: str, loss: float, wanted: float) -> Fact | None:
    """Return what is wrong if a loss is not the wanted one, with how far it is off."""
    if _same(loss, wanted):
        return None
    return Fact.false(note, size=abs(loss - wanted) / max(abs(loss), abs(wanted)))


def _same(loss: float, wanted: float) -> bool:
    return math.isclose(loss, wanted, rel_tol=RELOAD_TOLERANCE)
