"""Make the base model that adapters are loaded on, the same one in every environment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.utils._pytree import tree_map

from peft_regress import registry
from peft_regress.environments.compat.messages import BaseMade
from peft_regress.errors import InputError
from peft_regress.imports import import_object
from peft_regress.measure.invariants.outputs import rows_of
from peft_regress.measure.seeding import seed_all
from peft_regress.measure.trees import named_tensors
from peft_regress.measure.user_code import calling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peft_regress.environments.compat.messages import BaseModel
    from peft_regress.measure.invariants.outputs import Outputs

_SEED: Final = 0
_BATCH: Final = 4
_CLASSES: Final = 10
_IMAGE: Final = (_BATCH, 3, 32, 32)


class Base:
    """A base model that can be made again and again, and a batch for it."""

    def __init__(self, base: BaseModel, *, folder: Path) -> None:
        """Make both once. Raises `InputError` if a callable fails or returns something else."""
        self._base = base
        self._make = _maker(base, folder)
        model = self.model()
        self._batch = _in_float32(self._inputs(model, folder))
        self.made = BaseMade(
            weights=_digest(model.state_dict().items()),
            inputs=_digest(named_tensors(self._batch)),
            outputs=numbers_of(self._checked_outputs(model)),
        )

    def model(self) -> nn.Module:
        """Return a fresh base model, in float32 and eval mode; raises `InputError`."""
        seed_all(_SEED)
        with calling(f"the base {self._base.name}"):
            model: Any = self._make()
        if not isinstance(model, nn.Module):
            msg = f"the base {self._base.name} returned {type(model).__name__}, not a module"
            raise InputError(msg)
        return model.float().eval()

    def outputs(self, model: nn.Module) -> Outputs:
        """Return the floating-point tensors that the model returns for the batch, in eval mode."""
        model.eval()
        with torch.inference_mode():
            if isinstance(self._batch, Mapping):
                returned = model(**self._batch)
            elif isinstance(self._batch, tuple | list):
                returned = model(*self._batch)
            else:
                returned = model(self._batch)
        return tuple(
            tensor.float().clone()
            for _, tensor in named_tensors(returned)
            if tensor.is_floating_point()
        )

    def _inputs(self, model: nn.Module, folder: Path) -> Any:
        base = self._base
        seed_all(_SEED)
        if base.inputs is not None:
            function = import_object(base.inputs, folder=folder, is_wanted=callable)
            with calling(f"the inputs {base.inputs}"):
                return function()
        shape = base.shape
        if shape is None and not base.is_own:
            shape = list(_IMAGE)
        if shape is not None:
            return torch.randn(*shape)
        given = getattr(model, "dummy_inputs", None)
        if given is None:
            msg = (
                f"no inputs are known for {base.name}: add --shape 4,3,32,32, or --inputs "
                "pkg.mod:callable, which returns a batch"
            )
            raise InputError(msg)
        return given

    def _checked_outputs(self, model: nn.Module) -> Outputs:
        with calling(f"the base {self._base.name} with its inputs"):
            outputs = self.outputs(model)
        if not sum(tensor.numel() for tensor in outputs):
            msg = f"the base {self._base.name} returns no floating-point tensor"
            raise InputError(msg)
        if not is_finite(outputs):
            msg = f"the base {self._base.name} returns numbers that are NaN or infinite"
            raise InputError(msg)
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
        is_float = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return leaf.float() if is_float else leaf

    return tree_map(cast, batch)


def _digest(tensors: Any) -> str:
    """Return a digest of named tensors: names, shapes, types and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def numbers_of(outputs: Outputs) -> list[list[float]]:
    """Return the numbers of each tensor, or a sample of them."""
    return rows_of(tuple(tensor.flatten() for tensor in outputs))


def is_finite(outputs: Outputs) -> bool:
    """Return whether no number is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in outputs)
