"""Make the base model that adapters are loaded on, the same one in every environment."""

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from peft_regress import registry
from peft_regress.cost.batches import call_model, floats_in, map_batch, named_tensors
from peft_regress.errors import InputError
from peft_regress.imports import calling, import_object
from peft_regress.measure.invariants.outputs import RELOAD_TOLERANCE, Outputs, agree
from peft_regress.measure.training import seed_all
from peft_regress.upgrades.compat.releases import BaseMade, BaseModel

_SEED: Final = 0
_AGAIN: Final = (1, 2)
"""The seeds of the runs that must agree with the first one."""
_CLASSES: Final = 10
_IMAGES: Final = (4, 3, 32, 32)
_MOST_NUMBERS: Final = 500_000
"""The most numbers of an output: each is sent as text and kept for each release."""


def is_finite(outputs: Outputs) -> bool:
    """Return whether no number is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in outputs)


def numbers_of(outputs: Outputs) -> list[list[float]]:
    """Return the numbers of each tensor. JSON has no infinities."""
    return [torch.nan_to_num(tensor).tolist() for tensor in outputs]


class Base:
    """A base model that can be made again and again, and a batch for it."""

    def __init__(self, base: BaseModel) -> None:
        """Make both, and see that the model is the same each time.

        Raises `InputError` if a callable fails or returns something else, or if the model differs
        when it is made, or computes something else when it runs, again.
        """
        self._base = base
        self._make: Callable[[], Any]
        if base.is_own:
            folder = Path(base.folder)
            self._make = import_object(base.name, folder=folder, is_wanted=callable)
        else:
            architecture = registry.get("architecture", base.name)
            self._make = lambda: architecture.build(num_classes=_CLASSES, seed=_SEED)
        self._name = f"the base {base.name}"
        first = self._new()
        self._batch = self._inputs(first)
        with calling(self._name):  # such as a lazy layer, which has no weights yet
            weights = _digest(_tensors(first))
        outputs = self._checked_outputs(first)
        if not self.is_steady(first, outputs):
            raise InputError(
                f"{self._name} computes something else when it runs again on the same inputs: it "
                "draws random numbers (is a dropout left on in eval mode?) or keeps state between "
                "calls, so that no release can be compared"
            )
        inputs = _digest(named_tensors(self._batch))
        self.made = BaseMade(weights=weights, inputs=inputs, outputs=numbers_of(outputs))
        self.model()

    def model(self) -> nn.Module:
        """Return a fresh base, in float32 and eval mode. Raises `InputError` for another model."""
        model = self._new()
        if _digest(_tensors(model)) != self.made.weights:
            what = "has other weights"
        elif numbers_of(self._checked_outputs(model)) != self.made.outputs:
            what = "computes something else"
        else:
            return model
        raise InputError(
            f"{self._name} {what} each time it is called: let it return the same model, a new one "
            "each time (torch, numpy and random are seeded before each call)"
        )

    def outputs(self, model: nn.Module, *, seed: int = _SEED) -> Outputs:
        """Return what the model computes for the batch, in eval mode, with its generators seeded.

        Every floating-point tensor, flat and in float32; of whole numbers a rounding decides. The
        model gets copies: it may write into them.
        """
        model.eval()
        batch = copy.deepcopy(self._batch)
        seed_all(seed)
        with torch.inference_mode():
            returned = call_model(model, batch)
        return tuple(one.detach().float().flatten().clone() for one in floats_in(returned))

    def is_steady(self, model: nn.Module, outputs: Outputs) -> bool:
        """Return whether a model computes these outputs again, with other seeds."""
        again = (self.outputs(model, seed=seed) for seed in _AGAIN)
        return all(agree(found, outputs, tolerance=RELOAD_TOLERANCE) for found in again)

    def _new(self) -> nn.Module:
        seed_all(_SEED)
        with calling(self._name):
            model: Any = self._make()
        if not isinstance(model, nn.Module):
            raise InputError(f"{self._name} returned {type(model).__name__}, not a module")
        if hasattr(model, "peft_config"):
            raise InputError(f"{self._name} has an adapter already: return the model without one")
        return model.float().eval()

    def _inputs(self, model: nn.Module) -> Any:
        base = self._base
        seed_all(_SEED)
        if base.inputs is not None:
            function = import_object(base.inputs, folder=Path(base.folder), is_wanted=callable)
            with calling(f"the inputs {base.inputs}"), torch.no_grad():
                return _in_float32(function())
        if base.shape is not None or not base.is_own:
            return torch.randn(*(base.shape or _IMAGES))
        with calling(f"{self._name}: its dummy_inputs"):
            given = getattr(model, "dummy_inputs", None)
        if given is None:
            raise InputError(
                f"no inputs are known for {base.name}: add --shape 4,3,32,32, or --inputs "
                "pkg.mod:callable, which returns a batch"
            )
        return _in_float32(given)

    def _checked_outputs(self, model: nn.Module) -> Outputs:
        with calling(f"{self._name} with its inputs"):
            outputs = self.outputs(model)
        count = sum(tensor.numel() for tensor in outputs)
        if not count:
            raise InputError(f"{self._name} returns no floating-point tensor")
        if count > _MOST_NUMBERS:
            raise InputError(
                f"{self._name} returns {count:,} numbers, and {_MOST_NUMBERS:,} are compared at "
                "most: name smaller inputs by --shape or --inputs"
            )
        if not is_finite(outputs):
            raise InputError(f"{self._name} returns numbers that are NaN or infinite")
        return outputs


def _in_float32(batch: Any) -> Any:
    return map_batch(
        batch, lambda leaf: leaf.detach().float() if leaf.is_floating_point() else leaf
    )


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every parameter and buffer, also those that are not saved."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return a digest of named tensors: names, shapes, types and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
