"""The training of a first seed once more, in float64: its referee.

Float32 rounds otherwise on each kind of processor, and training amplifies that. In float64 the same
training agrees to some 1e-14 on all of them, so what differs there was computed otherwise.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import Tensor, nn

from peft_regress.gate.referees import agree, changes
from peft_regress.measure.float64 import LessPrecisionError, float64
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.training import begin_alike, device_of, move_nearby
from peft_regress.runs.schema import Referee
from peft_regress.text import clean

SHARE: Final = 1e-13
"""How far weights are moved to see what rounding does: a thousand times what float64 rounds to."""


def refereed(
    recipe: Recipe, base: nn.Module, *, known: Referee | None, start: Path | None = None
) -> Referee | str:
    """Train the first seed in float64; return what it gave, or in words why there is no referee.

    base: the unadapted model in its own precision. known: the referee of a reference; a training
    that departs from it, or that has none, is trained once more from weights that differ by 1e-13
    of them: so far rounding may move each step. start: the file of `begin_alike`.
    """
    try:
        _check(recipe, base)
        trained = functools.partial(_trained, recipe, start)
        return completed(trained(), known, lambda: trained(share=SHARE))
    except LessPrecisionError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  (whatever a library raises for float64)
        return f"float64 raises {type(error).__name__}: {clean(str(error), longest=100)}"


def completed(found: Referee, known: Referee | None, nearby: Callable[[], Referee]) -> Referee:
    """Return a referee with how far rounding may move it.

    As far as the known one, if it agrees with that; else in two digits as far as the training from
    nearby weights is away, which `nearby` makes.
    """
    if known is not None and agree(known, found):
        moved = known.moved
    else:
        moved = [float(f"{change:.2g}") for change in changes(found, nearby())]
    return msgspec.structs.replace(found, moved=moved)


def _check(recipe: Recipe, base: nn.Module) -> None:
    device, dtype = device_of(base), recipe.adapter.dtype
    if device.type != "cpu":
        raise LessPrecisionError(f"sums on {device.type} have no fixed order")
    tensors = (*base.parameters(), *base.buffers())
    less = {one.dtype for one in tensors if one.is_floating_point()} - {torch.float64}
    other = {dtype} if dtype else less - {torch.float32}
    for one in other:
        raise LessPrecisionError(f"its weights are {one}".replace("torch.", ""))


def _trained(recipe: Recipe, start: Path | None, *, share: float = 0.0) -> Referee:
    """Train in float64, from weights that are moved by a share of each."""
    adapter = dataclasses.replace(recipe.adapter, base_dtype="float64")
    recipe, seed = dataclasses.replace(recipe, adapter=adapter), recipe.seeds[0]
    with float64() as mode:
        data = recipe.load_data()
        test = list(data.test_batches(recipe.test_batch))
        model = recipe.adapted_model(seed)
        batches = recipe.batches(data, seed=seed)
        if not recipe.is_own:
            # A convolution of float64 has no fast kernel: half of the images take half of the time,
            # and each place of a batch is still seen in one of two steps.
            batches = (tuple(x[step % 2 :: 2] for x in one) for step, one in enumerate(batches))
        if start is not None:
            taken = list(itertools.islice(batches, recipe.fine_tune.steps))
            batches = iter(begin_alike(start, model, taken))
        if share:
            move_nearby(model, share)
        norms = _Norms(model)
        optimizer = recipe.make_optimizer(model)
        watched = mode.watching(batches)
        training = recipe.train(model, optimizer, watched, seed=seed, on_step=norms.note)
        scores = recipe.objective.scores(model, test)
    losses, gradients, updates = list(training.losses), norms.gradients, norms.updates
    numbers = [*losses, *gradients, *updates, *scores.values()]
    if not all(map(math.isfinite, numbers)):
        raise LessPrecisionError("its numbers in float64 are not finite")
    return Referee(losses=losses, gradients=gradients, updates=updates, scores=scores, moved=[])


class _Norms:
    """The norms of a model's gradients, and of what each step changes in it."""

    def __init__(self, model: nn.Module) -> None:
        self._trained = [one for one in model.parameters() if one.requires_grad]
        self._before = [one.detach().clone() for one in self._trained]
        self.gradients: list[float] = []
        self.updates: list[float] = []

    @torch.no_grad()
    def note(self, _step: int) -> None:
        """Note the norms after a step, while its gradients are there."""
        found = (one.grad for one in self._trained)
        self.gradients.append(_norm(one for one in found if one is not None))
        pairs = list(zip(self._trained, self._before, strict=True))
        self.updates.append(_norm(now - was for now, was in pairs))
        for now, was in pairs:
            was.copy_(now)


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.hypot(*(one.norm().item() for one in tensors))
