"""The training of a first seed once more, in float64: its referee.

Float32 rounds otherwise on each kind of processor, and training amplifies that. In float64 the same
training agrees to some 1e-14 on all of them, so what differs there was computed otherwise. It is
built under a default dtype of float64, and what code asks for in float32 by name it gets in
float64. A number of less precision that remains would bring the processor back: then there is no
referee.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peft_regress.gate.referees import agree, changes
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.training import device_of, move_nearby
from peft_regress.runs.schema import Referee
from peft_regress.text import clean

_SHARE: Final = 1e-13
"""How far weights are moved to see what rounding does: a thousand times what float64 rounds to."""
_LESS: Final = frozenset({torch.float32, torch.float16, torch.bfloat16})


class _NoRefereeError(Exception):
    """Why a training has no referee."""


def refereed(recipe: Recipe, base: nn.Module, *, known: Referee | None) -> Referee | str:
    """Train the first seed in float64; return what it gave, or in words why there is no referee.

    base: the unadapted model in its own precision. known: the referee of a reference; a training
    that departs from it, or that has none, is trained once more from weights that differ by 1e-13
    of them: so far rounding may move each step.
    """
    try:
        _check(recipe, base)
        found = _trained(recipe)
        if known is not None and agree(known, found):
            moved = known.moved
        else:
            nearby = changes(found, _trained(recipe, share=_SHARE))
            moved = [float(f"{change:.2g}") for change in nearby]
    except _NoRefereeError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  (whatever a library raises for float64)
        return f"float64 raises {type(error).__name__}: {clean(str(error), longest=100)}"
    return msgspec.structs.replace(found, moved=moved)


def _check(recipe: Recipe, base: nn.Module) -> None:
    device, dtype = device_of(base), recipe.adapter.dtype
    if device.type != "cpu":
        raise _NoRefereeError(f"sums on {device.type} have no fixed order")
    tensors = (*base.parameters(), *base.buffers())
    less = {one.dtype for one in tensors if one.is_floating_point()} - {torch.float64}
    other = {dtype} if dtype else less - {torch.float32}
    for one in other:
        raise _NoRefereeError(f"its weights are {one}".replace("torch.", ""))


def _trained(recipe: Recipe, *, share: float = 0.0) -> Referee:
    """Train in float64, from weights that are moved by a share of each."""
    adapter = dataclasses.replace(recipe.adapter, base_dtype="float64")
    recipe, seed = dataclasses.replace(recipe, adapter=adapter), recipe.seeds[0]
    with _float64() as mode:
        data = recipe.load_data()
        test = list(data.test_batches(recipe.test_batch))
        model = recipe.adapted_model(seed)
        if share:
            move_nearby(model, share)
        norms = _Norms(model)
        optimizer = recipe.make_optimizer(model)
        batches = mode.watching(recipe.batches(data, seed=seed))
        training = recipe.train(model, optimizer, batches, seed=seed, on_step=norms.note)
        scores = recipe.objective.scores(model, test)
    numbers = [*training.losses, *norms.gradients, *norms.updates, *scores.values()]
    if not all(map(math.isfinite, numbers)):
        raise _NoRefereeError("its numbers in float64 are not finite")
    return Referee(
        losses=list(training.losses),
        gradients=norms.gradients,
        updates=norms.updates,
        scores=scores,
        moved=[],
    )


@contextlib.contextmanager
def _float64() -> Iterator[_Raising]:
    """Compute in float64. Raises `_NoRefereeError` for a training with less."""
    before = torch.get_default_dtype()
    mode = _Raising()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    torch.set_default_dtype(torch.float64)
    try:
        with mode:
            yield mode
    finally:
        torch.set_default_dtype(before)
    if mode.left:
        raise _NoRefereeError(mode.left)


class _Raising(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes of each float32 that is asked for float64, and notes the first that remains."""

    left = ""
    """The operator and its dtype; empty if there is none."""
    _watches = False

    def watching(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield batches, and watch what is computed meanwhile, not how the batches are made."""
        for batch in batches:
            self._watches = True
            yield batch
            self._watches = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator."""
        kwargs = {name: _raised(one) for name, one in (kwargs or {}).items()}
        found = func(*map(_raised, args), **kwargs)
        if func is torch.ops.aten.lift_fresh.default:  # of torch.tensor(), or NumPy
            found = found.double() if found.dtype is torch.float32 else found
        if self._watches and not self.left:
            if torch.is_autocast_enabled("cpu"):  # which leaves float64 alone
                self.left = "it computes under autocast"
            for one in (found,) if isinstance(found, Tensor) else tree_leaves(found):
                if isinstance(one, Tensor) and one.dtype in _LESS:
                    self.left = f"{func} stays {one.dtype}".replace("torch.", "")
        return found


def _raised(asked: Any) -> Any:
    return torch.float64 if asked is torch.float32 else asked


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
