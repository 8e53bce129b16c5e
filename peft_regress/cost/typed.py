"""A model and its batch as they are typed: `pkg.mod:build`, `8x128:int64`, `labels=8:int64`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from math import prod
from types import FunctionType
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from peft_regress.cost.batches import Call, RandomTensor
from peft_regress.cost.inference import call_model
from peft_regress.cost.pricing import TrainingCost, loss_of_output, sum_of_outputs, training_cost
from peft_regress.cost.refusals import UnprofilableModelError, checked_logits
from peft_regress.errors import InputError, PeftRegressError, UnknownNameError
from peft_regress.imports import import_object, told
from peft_regress.text import clean

TypedLoss = Literal["sum", "cross-entropy"]

_DTYPES: Final = {
    name: getattr(torch, name)
    for name in (
        "float32", "float64", "float16", "bfloat16", "complex64", "complex128",
        "int64", "int32", "int16", "int8", "uint8", "bool",
    )
}  # fmt: skip

_INPUT: Final = re.compile(r"(?:(?P<name>[^=:]*)=)?(?P<shape>[^=:]*)(?::(?P<dtype>[^=:]*))?")
_SHAPE: Final = re.compile(r"\d+(?:x\d+)*", re.ASCII)


def load_model(path: str) -> nn.Module:
    """Return the model that an import path names: a callable that builds it, or a class.

    Its weights are those of seed 0. Raises `InputError` for a path that does not import, and for
    what makes no module.
    """
    try:
        found = import_object(path, folder=None, is_wanted=_makes_a_model)
    except UnknownNameError as error:
        raise InputError(
            f"--model {path}: {error} Name a function that returns the model."
        ) from error
    except InputError as error:
        raise InputError(f"--model {error}") from error
    return found if isinstance(found, nn.Module) else _build(path, found)


def _makes_a_model(value: object) -> bool:
    """Return whether a name of a module is worth listing: what it defines, not what it imports."""
    is_class = isinstance(value, type) and issubclass(value, nn.Module)
    return isinstance(value, nn.Module | FunctionType) or is_class


def _build(path: str, build: Any) -> nn.Module:
    if not callable(build):
        raise InputError(
            f"--model {path} is not a function that returns a model, but {clean(repr(build))}"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build()
    except (Exception, SystemExit) as error:  # the function is the caller's and may raise anything
        raise InputError(
            f"--model {path} cannot be called without arguments: {told(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"--model {path} returns a {type(model).__name__}, not a torch.nn.Module")
    return model


def parse_inputs(texts: Sequence[str]) -> Call:
    """Return the inputs of a model: `8x3x32x32`, `8x128:int64`, or `mask=8x128:bool` by name.

    Raises `InputError` for another text, an unknown dtype, and for two inputs of one name.
    """
    args: list[RandomTensor] = []
    kwargs: dict[str, RandomTensor] = {}
    for text in texts:
        name, tensor = _parse_input(text)
        if name is None:
            args.append(tensor)
        elif name in kwargs:
            raise InputError(f"--input {clean(text)!r}: there is an input {name!r} already")
        else:
            kwargs[name] = tensor
    return Call(tuple(args), kwargs)


def _parse_input(text: str) -> tuple[str | None, RandomTensor]:
    parts = _INPUT.fullmatch(text)
    name = None if parts is None else parts["name"]
    if parts is None or not _SHAPE.fullmatch(parts["shape"]):
        raise InputError(
            f"--input {clean(text)!r} is not SHAPE or SHAPE:DTYPE, such as 8x3x224x224 or "
            "8x128:int64"
        )
    if name is not None and not name.isidentifier():
        raise InputError(f"--input {clean(text)!r}: {clean(name)!r} is not the name of an argument")
    dtype = parts["dtype"] if parts["dtype"] is not None else "float32"
    if dtype not in _DTYPES:
        raise UnknownNameError("dtype", clean(dtype), _DTYPES)
    shape = parts["shape"].split("x")
    if any(len(size) > len(str(sys.maxsize)) for size in shape) or (
        prod(map(int, shape)) > sys.maxsize // _DTYPES[dtype].itemsize
    ):
        raise InputError(
            f"--input {clean(text)!r} has more bytes than any machine: give a smaller shape"
        )
    return name, RandomTensor(tuple(map(int, shape)), _DTYPES[dtype])


def price_typed(path: str, inputs: Sequence[str], *, loss: TypedLoss | None = None) -> TrainingCost:
    """Price one training step of a model and inputs as they are typed.

    Args:
        path: as for `load_model`.
        inputs: as for `parse_inputs`. Their values are random; whole numbers are 0.
        loss: None is the model's own loss if its output has one, else the sum of all
            floating-point outputs; "sum" is always the latter. "cross-entropy" is of logits,
            (batch, classes), with one label for each item of the first input.

    Raises `InputError` for what `load_model` and `parse_inputs` refuse, and for a model that cannot
    take the inputs.
    """
    call = parse_inputs(inputs)
    model = load_model(path)
    batch: Any = call
    loss_function: Callable[[nn.Module, Any], Tensor]
    loss_function = sum_of_outputs if loss == "sum" else loss_of_output
    if loss == "cross-entropy":
        batch, loss_function = (call, _labels(call)), _cross_entropy
    try:
        return training_cost(model, batch, loss=loss_function)
    except PeftRegressError as error:
        raise InputError(f"--model {path}: {error}") from error
    except Exception as error:  # the model is the caller's and may raise anything
        shown = " ".join(f"--input {text}" for text in inputs) or "without --input"
        raise InputError(f"a step of --model {path} {shown} fails: {told(error)}") from error


def _labels(call: Call) -> RandomTensor:
    first = next(iter((*call.args, *call.kwargs.values())), None)
    if first is None:
        raise InputError(
            "--loss cross-entropy needs an --input: its first size is the number of labels"
        )
    return RandomTensor(first.shape[:1], torch.int64)


def _cross_entropy(model: nn.Module, batch: tuple[Call, Tensor]) -> Tensor:
    call, labels = batch
    output = call_model(model, call)
    found = getattr(output, "logits", output)
    width = found.shape[1] if isinstance(found, torch.Tensor) and found.ndim > 1 else 1
    try:
        logits = checked_logits(output, model, num_classes=width, labels=labels)
    except UnprofilableModelError as error:
        raise InputError(f"{error} Leave --loss out for other outputs.") from error
    objective = nn.functional.cross_entropy(logits.float(), labels)
    objective.logits = logits  # type: ignore[attr-defined] # as `profile_step` keeps them
    return objective
