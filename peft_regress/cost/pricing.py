"""Price the training of any module on any batch, from a notebook or as typed on a command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor, nn

from peft_regress.cost.batches import Call, RandomTensor, leaves_of
from peft_regress.cost.inference import call_model
from peft_regress.cost.profile import profile_training_step
from peft_regress.cost.refusals import UnprofilableModelError, checked_logits
from peft_regress.cost.stand_ins import on_fake_or_real
from peft_regress.errors import InputError, PeftRegressError, UnknownNameError
from peft_regress.imports import import_object, told
from peft_regress.metrics import COST_METRICS, Metric, make_metric
from peft_regress.text import clean

if TYPE_CHECKING:
    from peft_regress.cost.step_cost import StepCost


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What training a module costs: one step, and how many parameters it has."""

    step: StepCost
    trainable_params: int
    total_params: int

    @property
    def metrics(self) -> dict[str, Metric]:
        """The costs under the names of run files; one that does not apply is absent."""
        values = {name: getattr(self.step, name) for name in COST_METRICS}
        if not self.step.projection_flops:
            del values["projection_flops"]
        values |= {name: getattr(self, name) for name in ("trainable_params", "total_params")}
        return {name: make_metric(name, value) for name, value in values.items()}


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW with torch's settings over what trains, one kernel a tensor."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return torch.optim.AdamW(trained, foreach=False)


def loss_of_output(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss that a model computes by itself, or the sum of what it returns.

    transformers' models return a `loss` if the batch has labels. Else it is the sum of all
    floating-point tensors of the output, in float32 at least: every output gets a gradient.

    Raises `InputError` if the output has no floating-point tensor.
    """
    output = call_model(model, batch)
    own = getattr(output, "loss", None)
    return own if isinstance(own, Tensor) else _sum(output, model)


def sum_of_outputs(model: nn.Module, batch: Any) -> Tensor:
    """Return the sum of all floating-point tensors that a model returns, a loss included.

    Raises `InputError` if there are none.
    """
    return _sum(call_model(model, batch), model)


def _sum(output: Any, model: nn.Module) -> Tensor:
    tensors = {id(leaf): leaf for leaf in leaves_of(output) if isinstance(leaf, Tensor)}
    floats = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    if not floats:
        raise InputError(
            f"{type(model).__name__} returns a {type(output).__name__} without floating-point "
            "tensors, so there is no loss: give a loss of your own"
        )
    total: Tensor | None = None
    for tensor in floats:
        single = tensor.float() if tensor.dtype in {torch.float16, torch.bfloat16} else tensor
        summed = single.sum()
        total = summed if total is None else total + summed
    assert total is not None  # noqa: S101 - there is one at least
    # As in a training loop that names the output.
    total.output = output  # type: ignore[attr-defined]
    return total


def training_cost(
    model: nn.Module,
    batch: Any,
    *,
    loss: Callable[[nn.Module, Any], Tensor] = loss_of_output,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adamw,
    fake: bool | None = None,
) -> TrainingCost:
    """Measure what one training step of any module costs, without a case and a registry.

    >>> from torch import nn
    >>> from peft_regress.cost import RandomTensor, training_cost
    >>> cost = training_cost(nn.Linear(128, 10), RandomTensor((8, 128)))
    >>> cost.step.forward_flops
    20480
    >>> cost.step.tensors
    'fake tensors'

    The model is left unchanged and keeps its mode; what trains is what requires a gradient, so wrap
    the model by peft first to measure an adapter.

    Args:
        model: any module.
        batch: what `loss` gets: a tensor, or lists, tuples, mappings or dataclasses of tensors.
        loss: returns a scalar from the model and the batch. The default calls the model with the
            batch (a tuple as positional arguments, a mapping by name) and takes `output.loss`, or
            the sum of all floating-point outputs.
        optimizer: returns the optimizer of the model; by default AdamW with `foreach=False`.
        fake: as for `profile_inference`.

    Raises what `profile_training_step` raises, `NeedsValuesError` only with fake=True.
    """

    def measure(*, fake: bool) -> StepCost:
        return profile_training_step(model, optimizer, batch=batch, loss=loss, fake=fake)

    parameters = list(model.parameters())
    return TrainingCost(
        step=on_fake_or_real(measure) if fake is None else measure(fake=fake),
        trainable_params=sum(p.numel() for p in parameters if p.requires_grad),
        total_params=sum(p.numel() for p in parameters),
    )


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
