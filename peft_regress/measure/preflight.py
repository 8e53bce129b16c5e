"""Check a case of one's own before it is measured: its model, data and loss fit each other."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.imports import told
from peft_regress.measure.inputs import BatchSums, check_same_build, summaries_of
from peft_regress.measure.seeding import seed_all
from peft_regress.measure.training import device_of, on_device
from peft_regress.measure.user_code import CaseError

if TYPE_CHECKING:
    from peft_regress.measure.data import Data
    from peft_regress.measure.recipe import Recipe


def check_case(recipe: Recipe, data: Data) -> tuple[frozenset[str], nn.Module]:
    """Take one loss of the unadapted model; return the buffers that the training mode moves.

    Also returns a second build of the model, of the first seed, that nothing has called yet.

    Raises `InputError` if the model, the data or the loss do not fit each other, or if two builds
    under one seed differ or share parameters; `CaseError` if one of them fails.
    """
    name, seed = f"FineTune {recipe.case.id!r}", recipe.seeds[0]
    base, again = recipe.base_model(seed), recipe.base_model(seed)
    _check_built(base, again, name)
    check_same_build(summaries_of(base), summaries_of(again), what=f"{name}: calling model()")
    seed_all(seed)
    batch = on_device(next(recipe.batches(data, seed=seed)), device_of(base))
    check_same_build(
        _summary(recipe, data), _summary(recipe, recipe.load_data()), what=f"{name}: calling data()"
    )
    seed_all(seed)
    return _moved(recipe, base, batch, name), again


def checked(recipe: Recipe, data: Data) -> Recipe:
    """Return the recipe of an own case with the buffers that it ships; raises like `check_case`."""
    moving, _ = check_case(recipe, data)
    return recipe.shipping(moving)


def _check_built(base: nn.Module, again: nn.Module, name: str) -> None:
    parameter: Any  # one without a shape or on the meta device too
    parameters: Any = again.parameters()
    known = {
        parameter.data_ptr()
        for parameter in parameters
        if not is_lazy(parameter) and parameter.numel()
    }
    for key, parameter in base.named_parameters():
        if is_lazy(parameter):
            problem = "has no shape yet: let model() call the model once on a batch"
        elif parameter.is_meta:
            problem = "is on the meta device: let model() build it with its weights"
        elif parameter.numel() and parameter.data_ptr() in known:
            problem = (
                "is the same tensor in two models: build a new model in model(), or return "
                "copy.deepcopy of the one that you keep"
            )
        else:
            continue
        raise InputError(f"{name}: {key!r} of what model() returns {problem}")


def _summary(recipe: Recipe, data: Data) -> Any:
    seed_all(recipe.seeds[0])
    sums = BatchSums()
    sums.add({"train": next(recipe.batches(data, seed=recipe.seeds[0])), "test": data.probe(1)})
    return sums.summaries()


def _moved(recipe: Recipe, base: nn.Module, batch: Any, name: str) -> frozenset[str]:
    before = {key: tensor.clone() for key, tensor in base.named_buffers()}
    recipe.set_mode(base)
    try:
        with torch.no_grad():
            loss = recipe.objective.loss(base, batch)
            recipe.objective.outputs(copy.deepcopy(base), batch)
    except PeftRegressError:
        raise
    except Exception as error:
        raise CaseError(
            f"{name}: before any adapter, model and loss fail on the first batch "
            f"({_described(batch)}): {told(error)}"
        ) from error
    if not bool(torch.isfinite(loss)):
        raise CaseError(f"{name}: before any adapter, the loss of the first batch is {loss.item()}")
    return frozenset(
        key for key, tensor in base.named_buffers() if not torch.equal(tensor, before[key])
    )


def _described(batch: Any) -> str:
    sums = BatchSums()
    sums.add(batch)
    return ", ".join(
        f"{path or 'tensor'} {'x'.join(map(str, one.shape)) or 'scalar'} {one.dtype}"
        for path, one in sums.summaries().items()
    )
