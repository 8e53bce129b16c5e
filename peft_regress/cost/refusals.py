"""What cannot be measured: the errors, and the checks of a model, its step and its output."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from numbers import Integral
from typing import Any, NoReturn, get_args

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    UnsupportedOperatorException,
)

from peft_regress.cost.events import Loss
from peft_regress.cost.storages import can_be_taken_apart, has_parts, tensors_in
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
