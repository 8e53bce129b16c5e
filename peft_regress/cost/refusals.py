"""What cannot be measured: the errors, and the checks of a model, its step and its output."""

from typing import Any

from torch import Tensor, nn
from torch._subclasses import fake_tensor

from peft_regress.errors import InputError, PeftRegressError


class NothingToTrainError(PeftRegressError):
    """No parameter of the model would get a gradient: there is no step to measure."""


class UnprofilableModelError(PeftRegressError):
    """The step of a model cannot be measured, or its output is not logits."""


class NeedsValuesError(UnprofilableModelError):
    """A step cannot be measured on fake tensors, because it needs values; a real step can."""


def checked_logits(output: object, model: nn.Module, *, num_classes: int) -> Tensor:
    """Return the logits of an output: (batch, num_classes, ...)."""
    logits = getattr(output, "logits", output)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
    if not isinstance(logits, Tensor) or shape[1:2] != (num_classes,):
        found = f"an output of shape {shape}" if shape else f"a {type(output).__name__}"
        raise UnprofilableModelError(
            f"{type(model).__name__} returns {found}; for num_classes={num_classes} it must be "
            f"logits (batch, {num_classes}, ...), or an object with them in `logits`"
        )
    return logits


def check_objective(objective: object, model: nn.Module) -> None:
    """Refuse what no backward pass can start from."""
    owner = type(model).__name__
    if not isinstance(objective, Tensor) or objective.numel() != 1:
        found = tuple(objective.shape) if isinstance(objective, Tensor) else type(objective)
        raise InputError(f"the loss of {owner} must be a scalar tensor, not {found}")
    if not objective.requires_grad:
        problem = f"nothing to train: the loss of {owner} depends on no trainable parameter."
        raise NothingToTrainError(problem)


# torch has no error class for these. They occur if Python code asks a fake tensor for its memory,
# in a grouped product in float32, which has no fake kernel,
_NEEDS_REAL_ONES = (
    ".numpy() is not supported for tensor subclasses",
    "Cannot access data pointer",
    "Expected inputs of BF16 type but got",
)
# or if a shape depends on values, as that of a jagged tensor does.
_ASKS_FOR_SHAPES = "shape_env must not be None"


def cannot_be_fake(
    error: RuntimeError | AssertionError, model: nn.Module, location: str
) -> NeedsValuesError | None:
    """Translate an error that only fake tensors cause; `location` is that of the last operator."""
    if isinstance(
        error,
        fake_tensor.DataDependentOutputException
        | fake_tensor.DynamicOutputShapeException
        | fake_tensor.UnsupportedOperatorException,
    ):
        problem = f"{error}, reached in {location}, needs values, or has no fake kernel"
    elif _ASKS_FOR_SHAPES in str(error):
        problem = f"an operator in {location} has a shape that depends on values"
    elif any(text in str(error) for text in _NEEDS_REAL_ONES):
        problem = f"an operator in {location} needs values: {str(error).partition(chr(10))[0]}"
    else:
        return None
    return NeedsValuesError(
        f"{type(model).__name__} cannot be measured on fake tensors: {problem.rstrip('.')}. "
        "Pass fake=False to run the step for real."
    )


def check_model(model: nn.Module) -> None:
    """Refuse a model whose training step cannot be recorded."""
    owner = type(model).__name__
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise UnprofilableModelError(
                f"module {name!r} of {owner} makes sparse gradients: build it with sparse=False"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise NothingToTrainError(
            f"nothing to train: no parameter of {owner} requires a gradient. Set requires_grad on "
            "the parameters that shall train, for example the classifier's."
        )


def check_optimizer(optimizer: Any, model: nn.Module) -> None:
    """Raise `NothingToTrainError` for an optimizer that has none of the trainable parameters."""
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    groups = optimizer.param_groups
    if not any(id(parameter) in trained for group in groups for parameter in group["params"]):
        raise NothingToTrainError(
            f"nothing to train: the {type(optimizer).__name__} has none of the trainable "
            f"parameters of {type(model).__name__}. make_optimizer must take them from its "
            "argument, where stand-ins replace them: lambda model: AdamW(model.parameters())."
        )
