"""Errors that a step raises if its cost cannot be measured: what, where, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from peft_regress.errors import InputError, PeftRegressError


class NothingToTrainError(PeftRegressError):
    """No parameter of the model would get a gradient: there is no step to measure."""


class UnprofilableModelError(PeftRegressError):
    """The step of a model cannot be measured, or its output is not logits."""


class NeedsValuesError(UnprofilableModelError):
    """A step cannot be measured on fake tensors, because it needs values; a real step can."""


def checked_logits(
    output: object, model: nn.Module, *, num_classes: int, labels: Tensor | None
) -> Tensor:
    """Return the logits of an output: (batch, num_classes, ...).

    Raises `UnprofilableModelError` if they have no loss.
    """
    owner = type(model).__name__
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise UnprofilableModelError(
            f"{owner} returns a {type(output).__name__}, not a tensor of logits or "
            "an object with one in `logits`"
        )
    shape = tuple(logits.shape)
    if logits.ndim < 2 or shape[1] != num_classes:  # noqa: PLR2004
        raise UnprofilableModelError(
            f"{owner} returns an output of shape {shape}; for "
            f"num_classes={num_classes} it must be (batch, {num_classes}, ...)"
        )
    if logits.is_complex():
        raise UnprofilableModelError(
            f"{owner} returns complex logits, which have no loss: return their real part"
        )
    if labels is not None and shape != (len(labels), num_classes):
        raise UnprofilableModelError(
            f"{owner} returns an output of shape {shape}; cross-entropy with one label "
            f"for each of {len(labels)} inputs needs ({len(labels)}, {num_classes}). Pass "
            'loss="sum" to measure it without labels.'
        )
    return logits


def check_objective(objective: object, model: nn.Module) -> None:
    """Refuse what no backward pass can start from.

    Raises `InputError` for what is no scalar, `NothingToTrainError` if the backward pass would give
    no parameter a gradient.
    """
    owner = type(model).__name__
    if not isinstance(objective, Tensor):
        raise InputError(
            f"the loss of {owner} is a {type(objective).__name__}, not a tensor: loss must return "
            "a scalar tensor"
        )
    if objective.numel() != 1:
        raise InputError(
            f"the loss of {owner} has the shape {tuple(objective.shape)}: loss must return a "
            "scalar, for example the mean"
        )
    if objective.is_complex():
        raise InputError(
            f"the loss of {owner} is complex, which has no order: return its absolute value"
        )
    if not objective.requires_grad:
        raise NothingToTrainError(
            f"nothing to train: the loss of {owner} depends on no trainable parameter."
        )


def check_dtypes(operator: str, operands: Iterable[object], location: str) -> None:
    """Refuse a product of two dtypes, which only fake tensors allow."""
    found = {operand.dtype for operand in operands if isinstance(operand, Tensor)}
    if len(found) > 1:
        dtypes = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise UnprofilableModelError(
            f"{operator}, reached in {location}, gets {dtypes}, which no real step can multiply: "
            "measure with the dtype of the model, or convert the model"
        )


def refuse_unseen(operator: object, location: str) -> NoReturn:
    """Refuse an operator that runs functions, such as torch.cond."""
    raise UnprofilableModelError(
        f"{operator}, reached in {location}, is a higher-order operator, which hides the work "
        "of its functions. Call them in Python instead"
    )


def refuse_layout(problem: str, operator: str, location: str) -> NoReturn:
    """Refuse a tensor whose memory is not one storage, for what `layout_problem` said."""
    raise UnprofilableModelError(
        f"{operator}, reached in {location}, takes or makes a tensor that {problem}"
    )


def layout_problem(tensor: Tensor) -> str | None:
    """Return why the memory of a tensor cannot be measured, or None."""
    if tensor.is_nested:
        return "is nested, so its bytes and products are unknown: use a padded tensor"
    if tensor.layout is not torch.strided:
        return (
            f"has the layout {tensor.layout}, so its bytes and products are unknown: use a dense "
            "tensor (sparse=False in an embedding)"
        )
    return None


def check_outsider(tensor: Tensor, operator: str, location: str) -> None:
    """Refuse a tensor from outside the model that would get a gradient."""
    if tensor.requires_grad and tensor.is_leaf and torch.is_grad_enabled():
        raise UnprofilableModelError(
            f"{operator}, reached in {location}, gets a tensor of {tuple(tensor.shape)} that "
            "requires a gradient and is not a parameter of the model: make it one (nn.ModuleList, "
            "nn.ParameterList), or set requires_grad_(False)"
        )


# torch has no error class for these. They occur if Python code asks a fake tensor for its memory,
_ASKS_FOR_MEMORY = (".numpy() is not supported for tensor subclasses", "Cannot access data pointer")
# or if a shape depends on values, as that of a jagged tensor does.
_ASKS_FOR_SHAPES = "shape_env must not be None"


def cannot_be_fake(
    error: RuntimeError | AssertionError, model: nn.Module, location: str
) -> NeedsValuesError | None:
    """Translate an error that only fake tensors cause; None for any other.

    `location` is where the last operator ran, such as "the forward pass of module 'layer1'".
    """
    if isinstance(
        error,
        DataDependentOutputException | DynamicOutputShapeException | UnsupportedOperatorException,
    ):
        problem = f"{error}, reached in {location}, needs values, or has no fake kernel"
    elif _ASKS_FOR_SHAPES in str(error):
        problem = f"an operator in {location} has a shape that depends on values"
    elif any(text in str(error) for text in _ASKS_FOR_MEMORY):
        problem = f"an operator in {location} needs values: {str(error).partition(chr(10))[0]}"
    else:
        return None
    return NeedsValuesError(
        f"{type(model).__name__} cannot be measured on fake tensors: {problem.rstrip('.')}. "
        "Pass fake=False to run the step for real."
    )
