"""Make the base model that adapters are loaded on, the same one in every environment."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.utils._pytree import tree_map

from peft_regress import registry
from peft_regress.cost.batches import named_tensors
from peft_regress.errors import InputError
from peft_regress.imports import import_object
from peft_regress.measure.invariants.outputs import RELOAD_TOLERANCE, Outputs, agree
from peft_regress.measure.training import seed_all
from peft_regress.measure.user_code import calling
from peft_regress.upgrades.compat.messages import BaseMade, BaseModel
from peft_regress.upgrades.compat.numbers import is_finite, numbers_of, outputs_of

_SEED: Final = 0
_AGAIN: Final = (1, 2)
"""How far the seeds of the runs that must agree with the first one are from its own."""
_BATCH: Final = 4
_CLASSES: Final = 10
_IMAGE: Final = (_BATCH, 3, 32, 32)


class Base:
    """A base model that can be made again and again, and a batch for it."""

    def __init__(self, base: BaseModel, *, folder: Path) -> None:
        """Make both, and see that they are the same each time.

        Raises `InputError` if a callable fails or returns something else, if it gives another model
        or batch when it is called again, or if the model computes something else when it runs
        again.
        """
        self._base = base
        self._make = _maker(base, folder)
        self._name = f"the base {base.name}"
        first, second = self._new(), self._new()
        self._batch = self._inputs(first, folder)
        with calling(self._name):  # such as a lazy layer, which has no weights yet
            weights = _digest(_tensors(first))
        self._require_apart(first, second)
        inputs = self._digest_of_inputs()
        self._batch = self._inputs(first, folder)
        if self._digest_of_inputs() != inputs:
            raise InputError(
                f"{self._name}: its inputs are others each time they are made; seed what they are"
            )
        outputs = self._steady_outputs(first)
        self.made = BaseMade(weights=weights, inputs=inputs, outputs=numbers_of(outputs))
        self._require_same(second)

    def model(self) -> nn.Module:
        """Return a fresh base model, in float32 and eval mode.

        Raises `InputError` if it is not the one that was made first.
        """
        model = self._new()
        self._require_same(model)
        return model

    def outputs(self, model: nn.Module, *, seed: int = _SEED) -> Outputs:
        """Return what the model computes for the batch, in eval mode, with its generators seeded.

        The model gets copies: it may write into them.
        """
        model.eval()
        batch = copy.deepcopy(self._batch)
        seed_all(seed)
        with torch.inference_mode():
            if isinstance(batch, Mapping):
                returned = model(**batch)
            elif isinstance(batch, tuple | list):
                returned = model(*batch)
            else:
                returned = model(batch)
            return outputs_of(returned)

    def is_steady(self, model: nn.Module, outputs: Outputs) -> bool:
        """Return whether a model computes these outputs again, with other seeds."""
        return all(_agree(self.outputs(model, seed=_SEED + run), outputs) for run in _AGAIN)

    def _new(self) -> nn.Module:
        seed_all(_SEED)
        with calling(self._name):
            model: Any = self._make()
        if not isinstance(model, nn.Module):
            raise InputError(f"{self._name} returned {type(model).__name__}, not a module")
        if hasattr(model, "peft_config"):
            raise InputError(f"{self._name} has an adapter already: return the model without one")
        return model.float().eval()

    def _require_apart(self, first: nn.Module, second: nn.Module) -> None:
        """Raise `InputError` if two models share a tensor, into which an adapter may be merged."""
        known = {_place(tensor) for _, tensor in _tensors(first) if tensor.numel()}
        for name, tensor in _tensors(second):
            if first is second or (tensor.numel() and _place(tensor) in known):
                what = "model" if first is second else f"tensor {name}"
                raise InputError(
                    f"{self._name} returns the same {what} in each call: make a new one each time"
                )

    def _require_same(self, model: nn.Module) -> None:
        """Raise `InputError` if a model is not the first one, by its weights and its outputs."""
        if _digest(_tensors(model)) != self.made.weights:
            what = "has other weights"
        elif numbers_of(self._checked_outputs(model)) != self.made.outputs:
            what = "computes something else"
        else:
            return
        raise InputError(
            f"{self._name} {what} each time it is called: let it return the same model (torch, "
            "numpy and random are seeded before each call)"
        )

    def _inputs(self, model: nn.Module, folder: Path) -> Any:
        base = self._base
        seed_all(_SEED)
        if base.inputs is not None:
            function = import_object(base.inputs, folder=folder, is_wanted=callable)
            with calling(f"the inputs {base.inputs}"), torch.no_grad():
                return _in_float32(function())
        shape = base.shape
        if shape is None and not base.is_own:
            shape = list(_IMAGE)
        if shape is not None:
            return torch.randn(*shape)
        with calling(f"{self._name}: its dummy_inputs"):
            given = getattr(model, "dummy_inputs", None)
        if given is None:
            raise InputError(
                f"no inputs are known for {base.name}: add --shape 4,3,32,32, or --inputs "
                "pkg.mod:callable, which returns a batch"
            )
        return _in_float32(given)

    def _digest_of_inputs(self) -> str:
        return _digest(named_tensors(self._batch))

    def _steady_outputs(self, model: nn.Module) -> Outputs:
        outputs = self._checked_outputs(model)
        if not self.is_steady(model, outputs):
            raise InputError(
                f"{self._name} computes something else when it runs again on the same inputs: it "
                "draws random numbers (is a dropout left on in eval mode?) or keeps state between "
                "calls, so that no release can be compared"
            )
        return outputs

    def _checked_outputs(self, model: nn.Module) -> Outputs:
        with calling(f"{self._name} with its inputs"):
            outputs = self.outputs(model)
        if not sum(tensor.numel() for tensor in outputs):
            raise InputError(f"{self._name} returns no floating-point tensor")
        if not is_finite(outputs):
            raise InputError(f"{self._name} returns numbers that are NaN or infinite")
        return outputs


def _maker(base: BaseModel, folder: Path) -> Callable[[], Any]:
    if base.is_own:
        function: Callable[[], Any] = import_object(base.name, folder=folder, is_wanted=callable)
        return function
    architecture = registry.get("architecture", base.name)
    classes = _CLASSES if base.classes is None else base.classes
    return lambda: architecture.build(num_classes=classes, seed=_SEED)


def _in_float32(batch: Any) -> Any:
    def cast(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.detach().float() if leaf.is_floating_point() else leaf

    # What a tokenizer returns is a mapping, and no tree to torch.
    return tree_map(cast, dict(batch) if isinstance(batch, Mapping) else batch)


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _agree(one: Outputs, other: Outputs) -> bool:
    return agree(one, other, tolerance=RELOAD_TOLERANCE)


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
