"""What a step shows to have no cost to measure, and how that is said: what, where, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from peft_regress.errors import PeftRegressError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "NothingToTrainError",
    "UnprofilableModelError",
    "cannot_be_fake",
    "check_dtypes",
    "check_is_seen",
    "check_layout",
    "check_outsider",
    "checked_logits",
    "checked_objective",
    "layout_problem",
]


class NothingToTrainError(PeftRegressError):
    """A model of which no parameter would get a gradient: there is no step to measure."""


class UnprofilableModelError(PeftRegressError):
    """A model that cannot be measured without computing it, or whose output is not logits."""


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
    if logits.is_complex():
        msg = f"{owner} returns complex logits, of which there is no loss: return their real part"
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


def check_dtypes(operator: str, operands: Iterable[object], place: str) -> None:
    """Raise for a product of two dtypes: real tensors would, and fake ones let it pass."""
    found = {operand.dtype for operand in operands if isinstance(operand, Tensor)}
    if len(found) > 1:
        dtypes = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        msg = (
            f"{operator}, reached in {place}, is given {dtypes}, which no real step could "
            "multiply: measure with the dtype of the model, or convert the model"
        )
        raise UnprofilableModelError(msg)


def check_is_seen(operator: object, place: str) -> None:
    """Raise for an operator that runs functions of its own, such as torch.cond."""
    if isinstance(operator, HigherOrderOperator):
        msg = (
            f"{operator}, reached in {place}, is a higher-order operator: what the "
            "functions do that it is given is not seen. Call them in Python instead"
        )
        raise UnprofilableModelError(msg)


def check_layout(tensor: Tensor, operator: str, place: str) -> None:
    """Raise for a tensor whose memory is not that of one storage."""
    problem = layout_problem(tensor)
    if problem is not None:
        msg = f"{operator}, reached in {place}, takes or makes a tensor that {problem}"
        raise UnprofilableModelError(msg)


def layout_problem(tensor: Tensor) -> str | None:
    """Say what is wrong with how a tensor lies in memory; None where nothing is."""
    if tensor.is_nested:
        return "is nested, so that its bytes and products are not known: use a padded one"
    if tensor.layout is not torch.strided:
        return (
            f"has the layout {tensor.layout}, of which neither bytes nor products are known: use a "
            "dense one (sparse=False in an embedding)"
        )
    return None


def check_outsider(tensor: Tensor, operator: str, place: str) -> None:
    """Raise for a tensor from outside the model that would get a gradient, for nobody to use."""
    if tensor.requires_grad and tensor.is_leaf and torch.is_grad_enabled():
        msg = (
            f"{operator}, reached in {place}, is given a tensor of {tuple(tensor.shape)} that "
            "requires a gradient and is no parameter of the model: make it one (nn.ModuleList, "
            "nn.ParameterList), or set requires_grad_(False)"
        )
        raise UnprofilableModelError(msg)


# Torch has no class of its own for these, raised where Python asks a fake tensor for its memory.
_ASKS_FOR_MEMORY = (".numpy() is not supported for tensor subclasses", "Cannot access data pointer")
# Nor for a shape that follows from values, as that of a jagged tensor does.
_ASKS_FOR_SHAPES = "shape_env must not be None"


def cannot_be_fake(
    error: RuntimeError | AssertionError, model: nn.Module, place: str
) -> UnprofilableModelError | None:
    """Translate an error that real tensors would not have caused; None for any other.

    `place` is where the last operator ran, such as "the forward pass (module 'layer1')".
    """
    if isinstance(
        error,
        DataDependentOutputException | DynamicOutputShapeException | UnsupportedOperatorException,
    ):
        problem = f"{error}, reached in {place}, needs values, or has no fake kernel"
    elif _ASKS_FOR_SHAPES in str(error):
        problem = f"what follows in {place} has a shape that depends on values"
    elif any(text in str(error) for text in _ASKS_FOR_MEMORY):
        problem = f"what follows in {place} needs values: {str(error).partition(chr(10))[0]}"
    else:
        return None
    return UnprofilableModelError(
        f"{type(model).__name__} cannot be measured on fake tensors: {problem.rstrip('.')}. "
        "Pass fake=False to run the step for real."
    )
