"""A filled adapter that is switched off and on again, and beside a second one.

The second one must not touch the first, nor leave anything. Judged by the loss of the probe, since
the filled losses say already what the first one computes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from torch import Tensor, nn

from peft_regress.catalogue.methods.method import Method
from peft_regress.measure.invariants import facts, tuner
from peft_regress.measure.invariants.facts import Fact, attempt, listed, moved, named_tensors
from peft_regress.measure.invariants.filled import FILL_SEEDS, Filled
from peft_regress.measure.invariants.outputs import IDENTITY_TOLERANCE, RELOAD_TOLERANCE, Outputs
from peft_regress.measure.invariants.tuner import SECOND
from peft_regress.measure.objective import evaluated

T = TypeVar("T")


def switched_off(filled: Filled, of_base: Outputs, *, adapter: Method) -> dict[str, Fact]:
    """Compare the model with the adapter off with its base, and with what it was once it is on."""
    before, probe = facts.trainable(filled.model), filled.probe

    def off_now(compute: Callable[[nn.Module], T]) -> T:
        disabled = adapter.disabled(filled.model)
        assert disabled is not None  # noqa: S101  (only an adapter that can be off is filled)
        with disabled:
            return compute(filled.model)

    disabled, worked = attempt(lambda: off_now(probe.outputs))
    if disabled is None:
        off = toggled = worked
    else:
        toggled = _toggled(filled, before)
        off = probe.same(
            disabled,
            of_base,
            tolerance=IDENTITY_TOLERANCE,
            layers=lambda: (off_now(probe.layers), probe.layers(probe.base)),
        )
    if adapter.alters_base:
        off = Fact.null("wrapping alters the base's weights")
    return {"disabled_equals_base": off, "toggling_keeps_trainable": toggled}


def _toggled(filled: Filled, before: Mapping[str, tuple[int, ...]]) -> Fact:
    with evaluated(filled.model):
        filled.model.train()
    if wrong := sorted(dict(facts.trainable(filled.model).items() ^ before.items())):
        return Fact.unless(wrong)
    loss, worked = attempt(filled.loss)
    if loss is None:
        return worked
    wanted = filled.checked_losses[-1]
    note = f"the loss of the probe was {wanted:.7g} before, and is {loss:.7g} after it"
    return _other_loss(note, loss, wanted) or Fact(holds=True)


_BESIDE_ANOTHER: Final = ("adapters_do_not_leak", "delete_leaves_nothing")
_OTHER: Final = 1  # the fill that the first adapter gets meanwhile: not the last one
_VISIBLE: Final = 1e-4
_SEED: Final = len(FILL_SEEDS)  # of the second adapter: none of the first one's


def second_adapter(filled: Filled, adapter: Method) -> dict[str, Fact]:
    """Add, fill, activate and delete a second adapter; the first one is filled otherwise after it.

    filled: is not used for anything else but what lasts through this.
    """
    model, null = filled.model, ""
    if not tuner.layers_of(model):
        null = "it is no adapter in layers of peft"
    elif adapter.alters_base:
        null = "adding one alters the base's weights"
    if null:
        return dict.fromkeys(_BESIDE_ANOTHER, Fact.null(null))
    before, trains = facts.copies_of(model), facts.trainable(model)
    first = str(model.active_adapter)
    with tuner.quiet():
        try:
            tuner.add_second(model)
        except (ValueError, NotImplementedError) as error:
            refused = Fact.null(f"peft refuses a second one: {facts.told_of(error)}")
            return dict.fromkeys(_BESIDE_ANOTHER, refused)
        except Exception as error:  # noqa: BLE001  (whatever a library raises)
            return dict.fromkeys(_BESIDE_ANOTHER, facts.raised(error))
        leak, asked = attempt(lambda: _leak(filled, model, first, before))
        left, deleted = attempt(lambda: _left(filled, model, first, before, trains))
    return dict(zip(_BESIDE_ANOTHER, (leak or asked, left or deleted), strict=True))


def _leak(filled: Filled, model: Any, first: str, before: Mapping[str, Tensor]) -> Fact:
    added = {name: parameter for name, parameter in model.named_parameters() if name not in before}
    if not added:
        return Fact.false("a second adapter gets no parameters")
    filled.draw(added, seed=_SEED)
    if changed := moved(before, named_tensors(model)):
        return Fact.false(
            f"adding and filling a second one changes {listed(changed)}", tensors=changed
        )
    return _interplay(filled, model, first, added)


def _interplay(filled: Filled, model: Any, first: str, added: Mapping[str, Tensor]) -> Fact:
    """Return what is wrong about the second adapter's output, and about the first one's after it.

    added: the second one's parameters.
    """
    model.set_adapter(SECOND)
    its_loss = filled.loss()
    if not math.isfinite(its_loss):
        return Fact.false(f"with a second one active, the loss of the probe is {its_loss}")
    if its_loss == filled.checked_losses[-1] and _shows(filled):
        return Fact.false(
            f"with a second one active, the loss of the probe is {its_loss}, as without it"
        )
    its_tensors = {name: parameter.detach().clone() for name, parameter in added.items()}
    filled.fill(FILL_SEEDS[_OTHER])
    if changed := moved(its_tensors, named_tensors(model)):
        return Fact.false(f"filling the first one changes {listed(changed)}", tensors=changed)
    depends = "what a second one computes depends on the numbers in the first one"
    if wrong := _other_loss(depends, filled.loss(), its_loss):
        return wrong
    model.set_adapter(first)
    first_loss = filled.checked_losses[_OTHER]
    switched = "switched to a second one and back, the first one computes something else"
    if wrong := _other_loss(switched, filled.loss(), first_loss):
        return wrong
    _merge_beside(filled, model)
    return _ignored(filled, model, first, {first: first_loss, SECOND: its_loss})


def _merge_beside(filled: Filled, model: Any) -> None:
    """Merge the first adapter, for a comparison with merging it when there is no other.

    What is wrong about it is a matter of `unmerge_restores_base`.
    """
    before = facts.copies_of(model)

    def merged() -> float:
        model.base_model.merge_adapter()
        loss = filled.loss()
        model.base_model.unmerge_adapter()
        return loss

    filled.loss_merged_beside, worked = attempt(merged)
    if not worked.holds:
        attempt(model.base_model.unmerge_adapter)  # of the layers that were merged
    for name, tensor in named_tensors(model).items():
        tensor.data = before[name]


def _ignored(filled: Filled, model: Any, first: str, alone: Mapping[str, float]) -> Fact:
    """Return which adapter has no part in the output of two active ones.

    alone: the loss with one of them active, by name.
    """
    try:
        model.base_model.set_adapter([first, SECOND])
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
    model: Any,
    first: str,
    before: Mapping[str, Tensor],
    trains: Mapping[str, tuple[int, ...]],
) -> Fact:
    model.set_adapter(first)
    filled.fill(FILL_SEEDS[_OTHER])
    model.delete_adapter(SECOND)
    if left := tuner.traces_of_second(model):
        return Fact.false(f"these still name the deleted one: {listed(left)}", tensors=left)
    if others := sorted(named_tensors(model).keys() ^ before.keys()):
        return Fact.false(f"not the tensors of before: {listed(others)}", tensors=others)
    if others := sorted(dict(facts.trainable(model).items() ^ trains.items())):
        return Fact.false(f"not the trainable set of before: {listed(others)}", tensors=others)
    wanted = filled.checked_losses[_OTHER]
    wrong = _other_loss("the first one computes something else", filled.loss(), wanted)
    return wrong or Fact(holds=True)


def _shows(filled: Filled) -> bool:
    """Return whether another fill moves the loss by far more than its last digits."""
    highest, lowest = max(filled.checked_losses), min(filled.checked_losses)
    return highest - lowest > _VISIBLE * abs(highest)


def _other_loss(note: str, loss: float, wanted: float) -> Fact | None:
    if _same(loss, wanted):
        return None
    return Fact.false(note, size=abs(loss - wanted) / max(abs(loss), abs(wanted)))


def _same(loss: float, wanted: float) -> bool:
    return math.isclose(loss, wanted, rel_tol=RELOAD_TOLERANCE)
