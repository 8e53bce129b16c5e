"""A filled adapter that is switched off and on again, and beside a second one.

The second one must not touch the first, nor leave anything. Judged by the loss of the probe, since
the filled losses say already what the first one computes.
"""

import copy
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from peft_regress.catalogue.methods.method import Method
from peft_regress.measure.invariants import facts, tuner
from peft_regress.measure.invariants.facts import Fact, attempt, listed, moved, named_tensors
from peft_regress.measure.invariants.filled import FILL_SEEDS, Filled
from peft_regress.measure.invariants.outputs import RELOAD_TOLERANCE
from peft_regress.measure.invariants.tuner import SECOND
from peft_regress.measure.objective import evaluated
from peft_regress.measure.training import undisturbed


def toggling_keeps_trainable(filled: Filled, adapter: Method) -> Fact:
    """Switch the adapter off and on, and between the modes; compare what it was before."""
    before = facts.trainable(filled.model)
    disabled = adapter.disabled(filled.model)
    assert disabled is not None  # noqa: S101  (only an adapter that can be off is filled)

    def off() -> float:
        with disabled:
            return filled.loss()

    _, worked = attempt(off)
    if not worked.holds:
        return worked
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


# --- What an act must leave as it is --------------------------------------------------------------

_GLOBAL: Final = ("peft.", "torch.nn.modules.module", "torch.optim.optimizer")
"""The modules of the library, and those with torch's global hooks."""


@undisturbed()
def state_kept(filled: Filled, adapter: Method) -> Fact:
    """Save, merge, load and switch a copy in training mode, and compare what that leaves.

    What fails is a matter of other facts.
    """
    if not tuner.layers_of(filled.model):
        return Fact.null("it is no adapter in layers of peft")
    model: Any = copy.deepcopy(filled.model)
    model.train()
    first = str(model.active_adapter)
    with tuner.quiet(), tempfile.TemporaryDirectory() as folder:

        def load() -> None:
            with undisturbed():  # a new adapter is drawn
                model.load_adapter(folder, SECOND, is_trainable=True)

        acts: dict[str, tuple[Callable[[], object], ...]] = {
            "saving": (lambda: adapter.save(model, Path(folder)),),
            "merging and unmerging": (
                model.base_model.merge_adapter,
                model.base_model.unmerge_adapter,
            ),
            "loading another": (load,),
            "switching to another and back": (
                lambda: model.set_adapter(SECOND),
                lambda: model.set_adapter(first),
            ),
        }
        for name, steps in acts.items():
            before = _state_of(model)
            for step in steps:
                attempt(step)
            after = _state_of(model)
            if changed := [part for part, value in before.items() if after.get(part) != value]:
                return Fact.false(f"{name} changes {listed(changed)}", tensors=changed)
    return Fact(holds=True)


def _state_of(model: nn.Module) -> dict[str, object]:
    """Return, by what it is, the state that is no matter of the second adapter."""
    state: dict[str, object] = {
        "whether gradients are on": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "the default type": torch.get_default_dtype(),
        "the random numbers": torch.get_rng_state().numpy().tobytes(),
        **dict(_containers()),
    }
    for name, module in model.named_modules():
        state[f"the mode of {name or 'the model'}"] = module.training
        state[f"the dropout of {name}"] = getattr(module, "p", None)
    for name, parameter in model.named_parameters():
        state[f"whether {name} trains"] = parameter.requires_grad
        if parameter.requires_grad:
            state[f"the numbers of {name}"] = parameter.detach().norm().item()
    return {name: value for name, value in state.items() if SECOND not in name}


def _containers() -> Iterator[tuple[str, int]]:
    """Yield what the library's modules and classes collect, and how much it is."""
    for name, module in list(sys.modules.items()):
        if not name.startswith(_GLOBAL):
            continue
        classes = (
            part for part in vars(module).values() if getattr(part, "__module__", "") == name
        )
        for owner in (module, *(part for part in classes if isinstance(part, type))):
            for attribute, value in vars(owner).items():
                if isinstance(value, dict | list | set) and not attribute.startswith("__"):
                    yield f"{name}: {getattr(owner, '__name__', '')}.{attribute}", len(value)
