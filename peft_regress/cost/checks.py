"""Checks before the step is taken: refuse what no real training step could do."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from math import prod
from numbers import Integral
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from peft_regress.cost.refusals import NothingToTrainError, UnprofilableModelError, layout_problem
from peft_regress.cost.step_cost import Loss
from peft_regress.cost.storages import can_be_taken_apart, has_parts, tensors_in
from peft_regress.errors import InputError


def check_step(
    input_shape: Sequence[int], num_classes: int, loss: Loss, dtype: torch.dtype
) -> None:
    """Refuse a step that no model could take. Raises `InputError`."""
    if not isinstance(input_shape, tuple | list) or not all(map(_is_size, input_shape)):
        raise InputError(
            f"input_shape {input_shape!r} is not a tuple of whole numbers, such as (1, 3, 224, 224)"
        )
    if not input_shape or min(input_shape) < 0 or prod(input_shape) > sys.maxsize:
        shape = tuple(input_shape)
        raise InputError(
            f"input_shape {shape} is not the shape of a batch, such as (1, 3, 224, 224)"
        )
    if not _is_size(num_classes) or num_classes < 1:
        raise InputError(f"num_classes must be 1 or more, not {num_classes!r}")
    if loss not in get_args(Loss):
        raise InputError(
            f"loss must be one of {', '.join(map(repr, get_args(Loss)))}, not {loss!r}"
        )
    if not (dtype.is_floating_point or dtype.is_complex):
        raise InputError(
            f"dtype must be a floating-point type, not {dtype}: the input is drawn at random"
        )


def _is_size(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_model(model: nn.Module, *, fake: bool) -> None:
    """Refuse a model whose training step cannot be recorded operator by operator.

    Raises `UnprofilableModelError`, or `NothingToTrainError` if no parameter requires a gradient.
    """
    owner = type(model).__name__
    check_operators(model, fake=fake, trains=True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise NothingToTrainError(
            f"nothing to train: no parameter of {owner} requires a gradient. Set requires_grad on "
            "the parameters that shall train, for example the classifier's."
        )


def check_operators(model: nn.Module, *, fake: bool, trains: bool) -> None:
    """Refuse a model whose operators or tensors cannot be seen. Raises `UnprofilableModelError`."""
    for what, name, problem in _problems(model, fake=fake, trains=trains):
        raise UnprofilableModelError(f"{what} {name!r} of {type(model).__name__} {problem}")


def _problems(model: nn.Module, *, fake: bool, trains: bool) -> Iterator[tuple[str, str, str]]:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            hidden = "is compiled by torch.jit, which hides its operators"
            yield "module", name, f"{hidden}: build it from its Python class"
        if trains and isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            yield "module", name, "makes sparse gradients: build it with sparse=False"
    for what, tensors in (
        ("parameter", model.named_parameters()),
        ("buffer", model.named_buffers()),
        ("attribute", _attributes(model)),
    ):
        for name, tensor in tensors:
            unready = _unready(tensor, trains=trains) if what != "attribute" else None
            found = unready or _unknown(tensor, fake=fake)
            if found is not None:
                yield what, name, found


def _attributes(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors that modules keep as plain attributes, with their names."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in {"_parameters", "_buffers"}:
                for tensor in tensors_in(value):
                    yield f"{name}.{attribute}".removeprefix("."), tensor


def _unready(tensor: Tensor, *, trains: bool) -> str | None:
    if nn.parameter.is_lazy(tensor):
        return "has no shape yet: call the model once on a batch, then measure it"
    if tensor.is_meta and not isinstance(tensor, FakeTensor):
        return 'is on the meta device: build the model for real, or call to_empty(device="cpu")'
    if not trains:
        return None
    if tensor.is_inference():
        return "was made in inference mode and cannot train: build the model outside inference mode"
    if getattr(tensor, "_post_accumulate_grad_hooks", None):
        return (
            "has a hook on its accumulated gradient, which may step another optimizer: register "
            "the hook in make_optimizer, on the parameters of its argument"
        )
    return None


def _unknown(tensor: Tensor, *, fake: bool) -> str | None:
    if isinstance(tensor, FakeTensor) and not fake:
        return "is a fake tensor, which cannot take a real step: measure it with fake=True"
    if has_parts(type(tensor)) and not can_be_taken_apart(tensor):
        return (
            f"is a {type(tensor).__name__}, whose inner tensors are unknown: give that class "
            "__tensor_flatten__ and __tensor_unflatten__"
        )
    return layout_problem(tensor)


def check_optimizer(optimizer: object, model: nn.Module) -> None:
    """Refuse an optimizer that would not update the model.

    Raises `InputError` for what is no optimizer with a single step, `NothingToTrainError` if it
    has none of the trainable parameters.
    """
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        raise InputError(f"make_optimizer returned a {type(optimizer).__name__}, not an optimizer")
    if _takes_a_closure(optimizer):
        raise InputError(
            f"{type(optimizer).__name__} takes a closure and may compute the loss several times: "
            "it has no single step to measure"
        )
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if not any(id(parameter) in trained for group in groups for parameter in group["params"]):
        raise NothingToTrainError(
            f"nothing to train: the {type(optimizer).__name__} has none of the trainable "
            f"parameters of {type(model).__name__}. make_optimizer must take them from its "
            "argument, where stand-ins replace them: lambda model: AdamW(model.parameters())."
        )


def _takes_a_closure(optimizer: Any) -> bool:
    # Of its class: a scheduler wraps the step of the optimizer, so that it seems to take `self`.
    _, *parameters = inspect.signature(type(optimizer).step).parameters.values()
    return any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
