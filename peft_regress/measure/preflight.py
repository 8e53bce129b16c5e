"""Check a case of one's own before it is measured: its model, data and loss fit each other."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.measure.inputs import BatchSums, check_same_build, summaries_of
from peft_regress.measure.seeding import seed_all
from peft_regress.text import clean

if TYPE_CHECKING:
    from torch import nn

    from peft_regress.measure.data import Data
    from peft_regress.measure.recipe import Recipe


def check_case(recipe: Recipe, data: Data) -> frozenset[str]:
    """Take one loss of the unadapted model; return the buffers that the training mode moves.

    Raises `InputError` if the model, the data or the loss fail by themselves, or if two builds
    under one seed differ.
    """
    name, seed = f"FineTune {recipe.case.id!r}", recipe.seeds[0]
    base = recipe.base_model(seed)
    again = summaries_of(recipe.base_model(seed))
    check_same_build(summaries_of(base), again, what=f"{name}: calling model()")
    seed_all(seed)
    batch = next(recipe.batches(data, seed=seed))
    check_same_build(
        _summary(recipe, data), _summary(recipe, recipe.load_data()), what=f"{name}: calling data()"
    )
    seed_all(seed)
    return _moved(recipe, base, batch, name)


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
            recipe.objective.loss(base, batch)
            recipe.objective.outputs(copy.deepcopy(base), batch)
    except PeftRegressError:
        raise
    except Exception as error:
        msg = (
            f"{name}: before any adapter, model and loss fail on the first batch "
            f"({_described(batch)}): {type(error).__name__}: {clean(str(error))}"
        )
        raise InputError(msg) from error
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
