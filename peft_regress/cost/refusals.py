"""What has no cost to measure, and how that is said: what, where, and what to do.

Checked before the step where it can be, so that nothing is measured that no real step would do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from peft_regress.cost.step_cost import Loss
from peft_regress.errors import InputError, PeftRegressError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "NothingToTrainError",
    "UnprofilableModelError",
    "cannot_be_fake",
    "check_model",
    "check_optimizer",
    "check_step",
    "checked_logits",
    "checked_objective",
]


class NothingToTrainError(PeftRegressError):
    """A model of which no parameter would get a gradient: there is no step to measure."""


class UnprofilableModelError(PeftRegressError):
    """A model that cannot be measured without computing it, or whose output is not logits."""


def check_step(
    input_shape: Sequence[int], num_classes: int, loss: Loss, dtype: torch.dtype
) -> None:
    """Raise `InputError` for a step that no model could take."""
    if any(size < 0 for size in input_shape) or not input_shape:
        msg = f"input_shape {tuple(input_shape)} is no shape of a batch, such as (1, 3, 224, 224)"
        raise InputError(msg)
    if num_classes < 1:
        msg = f"num_classes has to be 1 or more, not {num_classes}"
        raise InputError(msg)
    if loss not in get_args(Loss):
        msg = f"loss has to be one of {', '.join(map(repr, get_args(Loss)))}, not {loss!r}"
        raise InputError(msg)
    if not (dtype.is_floating_point or dtype.is_complex):
        msg = f"dtype has to be a floating-point one, not {dtype}: the input is drawn at random"
        raise InputError(msg)


def check_model(model: nn.Module) -> None:
    """Raise for a model whose training step cannot be taken, or not seen, operator by operator."""
    owner = type(model).__name__
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            msg = (
                f"module {name!r} of {owner} is compiled by torch.jit, so that its operators are "
                "not seen one by one: build it from its Python class"
            )
            raise UnprofilableModelError(msg)
    for kind, tensors in (
        ("parameter", model.named_parameters()),
        ("buffer", model.named_buffers()),
    ):
        for name, tensor in tensors:
            problem = _problem(tensor)
            if problem:
                msg = f"{kind} {name!r} of {owner} {problem}"
                raise UnprofilableModelError(msg)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        msg = (
            f"nothing to train: none of the parameters of {owner} requires a "
            "gradient. Set requires_grad on those to be trained, the classifier's for example."
        )
        raise NothingToTrainError(msg)


def _problem(tensor: Tensor) -> str | None:
    if nn.parameter.is_lazy(tensor):
        return "has no shape yet: call the model on a batch once, then measure it"
    if tensor.is_meta:
        return 'is on the meta device: build the model for real, or call to_empty(device="cpu")'
    if tensor.is_inference():
        return "was made in inference mode and cannot be trained: build the model outside of it"
    if getattr(tensor, "_post_accumulate_grad_hooks", None):
        return (
            "has a hook on its accumulated gradient, which may step an optimizer of its own: "
            "register the hook in make_optimizer, on the parameters of its argument"
        )
    return None


def check_optimizer(optimizer: object, model: nn.Module) -> None:
    """Raise for an optimizer that would leave the model, or its stand-ins, as they are."""
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        msg = f"make_optimizer returned a {type(optimizer).__name__}, not an optimizer"
        raise InputError(msg)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if not any(id(parameter) in trained for group in groups for parameter in group["params"]):
        msg = (
            f"nothing to train: the {type(optimizer).__name__} has none of the trainable "
            f"parameters of {type(model).__name__}. make_optimizer has to take them from its "
            "argument, in which stand-ins are in their places: lambda model: AdamW(...)."
        )
        raise NothingToTrainError(msg)


def checked_logits(
    output: object, model: nn.Module, *, num_classes: int, labels: Tensor | None
) -> Tensor:
    """Return the logits, or raise `UnprofilableModelError` where a loss cannot be taken of them."""
    owner = type(model).__name__
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        msg = (
            f"{owner} returns a {type(output).__name__}, not a tensor of logits or "
            "an object with one in `logits`"
        )
        raise UnprofilableModelError(msg)
    shape = tuple(logits.shape)
    if logits.ndim < 2 or shape[1] != num_classes:  # noqa: PLR2004
        msg = (
            f"{owner} returns an output of shape {shape}; for "
            f"num_classes={num_classes} it has to be (batch, {num_classes}, ...)"
        )
        raise UnprofilableModelError(msg)
    if labels is not None and shape != (len(labels), num_classes):
        msg = (
            f"{owner} returns an output of shape {shape}; cross-entropy with one label "
            f"for each of {len(labels)} inputs needs ({len(labels)}, {num_classes}). Pass "
            'loss="sum" to measure it without labels.'
        )
        raise UnprofilableModelError(msg)
    return logits


def checked_objective(objective: Tensor, model: nn.Module) -> Tensor:
    """Return what the backward pass starts from, or raise if nothing that trains is behind it."""
    if not objective.requires_grad:
        msg = (
            f"nothing to train: no trainable parameter of {type(model).__name__} takes part in "
            "its output."
        )
        raise NothingToTrainError(msg)
    return objective


# Torch has no class of its own for these, raised where Python asks a fake tensor for its memory.
_ASKS_FOR_MEMORY = (".numpy() is not supported for tensor subclasses", "Cannot access data pointer")


def cannot_be_fake(
    error: RuntimeError, model: nn.Module, place: str
) -> UnprofilableModelError | None:
    """Translate an error that real tensors would not have caused; None for any other.

    `place` is where the last operator ran, such as "the forward pass (module 'layer1')".
    """
    if isinstance(
        error,
        DataDependentOutputException | DynamicOutputShapeException | UnsupportedOperatorException,
    ):
        problem = f"{error}, reached in {place}, needs values, or has no fake kernel"
    elif any(text in str(error) for text in _ASKS_FOR_MEMORY):
        problem = f"what follows in {place} needs values: {str(error).partition(chr(10))[0]}"
    else:
        return None
    return UnprofilableModelError(
        f"{type(model).__name__} cannot be measured on fake tensors: {problem.rstrip('.')}. "
        "Pass fake=False to run the step for real."
    )
