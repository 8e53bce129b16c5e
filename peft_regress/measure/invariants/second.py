"""A second adapter beside the first one: they must not touch each other, nor leave anything.

Judged by the loss of the probe, since the filled losses say already what the first one computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from peft_regress.measure.adapters import Adapter
from peft_regress.measure.adapters.tuner import SECOND, Tuner
from peft_regress.measure.invariants.facts import Fact, listed
from peft_regress.measure.invariants.filled import FILL_SEEDS, Filled
from peft_regress.measure.invariants.outputs import RELOAD_TOLERANCE, attempt, raised, told_of
from peft_regress.measure.invariants.tensors import copies_of, moved, named_tensors, trainable

if TYPE_CHECKING:
    from torch import Tensor


_NAMES: Final = ("adapters_do_not_leak", "delete_leaves_nothing")
_OTHER: Final = 1  # the fill that the first adapter gets meanwhile: not the last one
_VISIBLE: Final = 1e-4
_SEED: Final = len(FILL_SEEDS)  # of the second adapter: none of the first one's


def second_adapter(filled: Filled, adapter: Adapter) -> dict[str, Fact]:
    """Add, fill, activate and delete a second adapter; the first one is filled otherwise after it.

    filled: is not used for anything else but what lasts through this.
    """
    tuner = Tuner.of(filled.model)
    if tuner is None:
        return dict.fromkeys(_NAMES, Fact.null("it is no adapter in layers of peft"))
    if adapter.alters_base:
        return dict.fromkeys(_NAMES, Fact.null("adding one alters the base's weights"))
    first, before, trains = tuner.active, copies_of(filled.model), trainable(filled.model)
    try:
        tuner.add()
    except (ValueError, NotImplementedError) as error:
        return dict.fromkeys(_NAMES, Fact.null(f"peft refuses a second one: {told_of(error)}"))
    except Exception as error:  # noqa: BLE001  (whatever a library raises, the fact does not hold)
        return dict.fromkeys(_NAMES, raised(error))
    wrong, asked = attempt(lambda: _leak(filled, tuner, first, before))
    left, deleted = attempt(lambda: _left(filled, tuner, first, before, trains))
    return dict(
        zip(
            _NAMES,
            (
                Fact.false(wrong) if wrong else asked,
                Fact.false(left) if left else deleted,
            ),
            strict=True,
        )
    )


def _leak(filled: Filled, tuner: Tuner, first: str, before: Mapping[str, Tensor]) -> str:
    """Return what one adapter does to the other; '' if it does nothing."""
    added = {
        name: parameter for name, parameter in filled.model.named_parameters() if name not in before
    }
    if not added:
        return "a second adapter gets no parameters"
    filled.draw(added, seed=_SEED)
    if changed := moved(before, named_tensors(filled.model)):
        return f"adding and filling a second one changes {listed(changed)}"
    return _interplay(filled, tuner, first, added)


def _interplay(filled: Filled, tuner: Tuner, first: str, added: Mapping[str, Tensor]) -> str:
    """Return what is wrong about the second adapter's output, and about the first one's after it.

    added: the second one's parameters.
    """
    tuner.switch(SECOND)
    its_loss = filled.loss()
    if not math.isfinite(its_loss):
        return f"with a second one active, the loss of the probe is {its_loss}"
    if its_loss == filled.checked_losses[-1] and _shows(filled):
        return f"with a second one active, the loss of the probe is {its_loss}, as without it"
    its_tensors = {name: parameter.detach().clone() for name, parameter in added.items()}
    filled.fill(FILL_SEEDS[_OTHER])
    if changed := moved(its_tensors, named_tensors(filled.model)):
        return f"filling the first one changes {listed(changed)}"
    if not _same(filled.loss(), its_loss):
        return "what a second one computes depends on the numbers in the first one"
    tuner.switch(first)
    first_loss = filled.checked_losses[_OTHER]
    if not _same(filled.loss(), first_loss):
        return "switched to a second one and back, the first one computes something else"
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

    filled.loss_merged_beside = attempt(merged).result
    for name, tensor in named_tensors(filled.model).items():
        tensor.data = before[name]


def _ignored(filled: Filled, tuner: Tuner, first: str, alone: Mapping[str, float]) -> str:
    """Return which adapter has no part in the output of two active ones; '' if each has.

    alone: the loss with one of them active, by name.
    """
    try:
        tuner.switch_to_both(first)
        both = filled.loss()
    except (ValueError, NotImplementedError):  # peft refuses two active ones
        return ""
    if _shows(filled):
        for name, loss in alone.items():
            if _same(both, loss):
                return f"with two active ones, the output is that of {name} alone"
    return ""


def _left(
    filled: Filled,
    tuner: Tuner,
    first: str,
    before: Mapping[str, Tensor],
    trains: Mapping[str, tuple[int, ...]],
) -> str:
    """Return what there still is of the second adapter after it was deleted; '' for nothing."""
    tuner.switch(first)
    filled.fill(FILL_SEEDS[_OTHER])
    tuner.delete()
    if left := tuner.traces():
        return f"these still name the deleted one: {listed(left)}"
    if others := sorted(named_tensors(filled.model).keys() ^ before.keys()):
        return f"not the tensors of before: {listed(others)}"
    if others := sorted(dict(trainable(filled.model).items() ^ trains.items())):
        return f"not the trainable set of before: {listed(others)}"
    if not _same(filled.loss(), filled.checked_losses[_OTHER]):
        return "the first one computes something else"
    return ""


def _shows(filled: Filled) -> bool:
    """Return whether another fill moves the loss by far more than its last digits."""
    highest, lowest = max(filled.checked_losses), min(filled.checked_losses)
    return highest - lowest > _VISIBLE * abs(highest)


def _same(loss: float, wanted: float) -> bool:
    return math.isclose(loss, wanted, rel_tol=RELOAD_TOLERANCE)
