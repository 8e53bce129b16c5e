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

from peft_regress.catalogue.methods.method import Method, Shapes
from peft_regress.measure.invariants import facts, tuner
from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.invariants.filled import FILL_SEEDS, Filled
from peft_regress.measure.invariants.outputs import RELOAD_TOLERANCE, check_loss
from peft_regress.measure.invariants.tuner import SECOND
from peft_regress.measure.objective import evaluated
from peft_regress.measure.training import undisturbed


@facts.judged
def toggling_keeps_trainable(filled: Filled, adapter: Method) -> None:
    """Switch the adapter off and on, and between the modes; compare what it was before."""
    before = facts.trainable(filled.model)
    disabled = adapter.disabled(filled.model)
    assert disabled is not None  # noqa: S101  (only an adapter that can be off is filled)
    with disabled:
        filled.loss()
    with evaluated(filled.model):
        filled.model.train()
    facts.check_none(sorted(dict(facts.trainable(filled.model).items() ^ before.items())))
    loss, wanted = filled.loss(), filled.checked_losses[-1]
    note = f"the loss of the probe was {wanted:.7g} before, and is {loss:.7g} after it"
    check_loss(loss, wanted, note)


_BESIDE_ANOTHER: Final = ("adapters_do_not_leak", "delete_leaves_nothing")
_OTHER: Final = 1  # the fill that the first adapter gets meanwhile: not the last one
_VISIBLE: Final = 1e-4
_SEED: Final = len(FILL_SEEDS)  # of the second adapter: none of the first one's


def second_adapter(filled: Filled, adapter: Method) -> dict[str, Fact]:
    """Add, fill, activate and delete a second adapter; the first one is filled otherwise after it.

    filled: is not used for anything else but what lasts through this.
    """
    model: Any = filled.model
    before, trains = facts.copies_of(model), facts.trainable(model)
    with tuner.quiet():
        added = _added(model, adapter)
        if not added.holds:
            return dict.fromkeys(_BESIDE_ANOTHER, added)
        first = str(model.active_adapter)
        found = _kept_apart(filled, model, first, before), _left(filled, first, before, trains)
    return dict(zip(_BESIDE_ANOTHER, found, strict=True))


@facts.judged
def _added(model: nn.Module, adapter: Method) -> None:
    tuner.require_layers(model)
    if adapter.alters_base:
        raise facts.null("adding one alters the base's weights")
    with facts.refused("peft refuses a second one", ValueError, NotImplementedError):
        tuner.add_second(model)


@facts.judged
def _kept_apart(filled: Filled, model: Any, first: str, before: Mapping[str, Tensor]) -> None:
    """Check the second adapter's output, and the first one's after it."""
    added = {name: parameter for name, parameter in model.named_parameters() if name not in before}
    if not added:
        raise facts.false("a second adapter gets no parameters")
    filled.draw(added, seed=_SEED)
    changed = facts.moved(before, facts.named_tensors(model))
    facts.check_none(changed, "adding and filling a second one changes ")

    model.set_adapter(SECOND)
    its_loss = filled.loss()
    active = f"with a second one active, the loss of the probe is {its_loss}"
    if not math.isfinite(its_loss):
        raise facts.false(active)
    if its_loss == filled.checked_losses[-1] and _shows(filled):
        raise facts.false(f"{active}, as without it")

    its_tensors = {name: parameter.detach().clone() for name, parameter in added.items()}
    filled.fill(FILL_SEEDS[_OTHER])
    changed = facts.moved(its_tensors, facts.named_tensors(model))
    facts.check_none(changed, "filling the first one changes ")
    depends = "what a second one computes depends on the numbers in the first one"
    check_loss(filled.loss(), its_loss, depends)

    model.set_adapter(first)
    first_loss = filled.checked_losses[_OTHER]
    switched = "switched to a second one and back, the first one computes something else"
    check_loss(filled.loss(), first_loss, switched)
    _merge_beside(filled, model)
    _check_both(filled, model, {first: first_loss, SECOND: its_loss})


def _merge_beside(filled: Filled, model: Any) -> None:
    """Merge the first adapter, for `unmerge_restores_base` to compare with merging it alone."""
    before = facts.copies_of(model)

    def merged() -> float:
        model.base_model.merge_adapter()
        loss = filled.loss()
        model.base_model.unmerge_adapter()
        return loss

    filled.loss_merged_beside = facts.attempt(merged)
    if filled.loss_merged_beside is None:
        facts.attempt(model.base_model.unmerge_adapter)  # of the layers that were merged
    layer: Any
    for layer in tuner.layers_of(model).values():
        layer.merged_adapters = []  # a layer of OSF stays merged
    for name, tensor in facts.named_tensors(model).items():
        tensor.data = before[name]


def _check_both(filled: Filled, model: Any, alone: Mapping[str, float]) -> None:
    """Raise `FactError` for one of two active adapters without a part. alone: the loss of each."""
    try:
        model.base_model.set_adapter([*alone])
        both = filled.loss()
    except (ValueError, NotImplementedError):  # peft refuses two active ones
        return
    for name, loss in alone.items():
        if _shows(filled) and math.isclose(both, loss, rel_tol=RELOAD_TOLERANCE):
            raise facts.false(f"with two active ones, the output is that of {name} alone")


@facts.judged
def _left(filled: Filled, first: str, before: Mapping[str, Tensor], trains: Shapes) -> None:
    model: Any = filled.model
    model.set_adapter(first)
    filled.fill(FILL_SEEDS[_OTHER])
    model.delete_adapter(SECOND)
    facts.check_none(tuner.traces_of_second(model), "these still name the deleted one: ")
    others = sorted(facts.named_tensors(model).keys() ^ before.keys())
    facts.check_none(others, "not the tensors of before: ")
    others = sorted(dict(facts.trainable(model).items() ^ trains.items()))
    facts.check_none(others, "not the trainable set of before: ")
    note = "the first one computes something else"
    check_loss(filled.loss(), filled.checked_losses[_OTHER], note)


def _shows(filled: Filled) -> bool:
    """Return whether another fill moves the loss by far more than its last digits."""
    highest, lowest = max(filled.checked_losses), min(filled.checked_losses)
    return highest - lowest > _VISIBLE * abs(highest)


_GLOBAL: Final = ("peft.", "torch.nn.modules.module", "torch.optim.optimizer")
"""The modules of the library, and those with torch's global hooks."""


@undisturbed()
@facts.judged
def state_kept(filled: Filled, adapter: Method) -> None:
    """Save, merge, load and switch a training copy; compare what that leaves, not what fails."""
    tuner.require_layers(filled.model)
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
                facts.attempt(step)
            after = _state_of(model)
            changed = [part for part, value in before.items() if after.get(part) != value]
            facts.check_none(changed, f"{name} changes ")


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
        parts = (one for one in vars(module).values() if getattr(one, "__module__", "") == name)
        for owner in (module, *(one for one in parts if isinstance(one, type))):
            for attribute, value in vars(owner).items():
                if isinstance(value, dict | list | set) and not attribute.startswith("__"):
                    yield f"{name}: {getattr(owner, '__name__', '')}.{attribute}", len(value)
