"""Price the training of any module on any batch, from a notebook or as typed on a command line."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final

import torch
from torch import Tensor, nn

from peft_regress.cost.batches import Call, RandomTensor, call_model, leaves_of
from peft_regress.cost.profile import profile_training_step
from peft_regress.cost.step_cost import StepCost
from peft_regress.errors import InputError, PeftRegressError
from peft_regress.imports import import_object, told
from peft_regress.metrics import Metric, make_metric
from peft_regress.text import clean


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What training a module costs: one step, and how many parameters it has."""

    step: StepCost
    trainable_params: int
    total_params: int

    @property
    def metrics(self) -> dict[str, Metric]:
        """The costs under the names of run files; one that does not apply is absent."""
        sizes = {name: getattr(self, name) for name in ("trainable_params", "total_params")}
        values = {**self.step.metrics, **sizes}
        return {name: make_metric(name, value) for name, value in values.items()}


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW with torch's settings over what trains, one kernel a tensor."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return torch.optim.AdamW(trained, foreach=False)


def loss_of_output(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss that a model computes by itself, or the sum of what it returns.

    transformers' models return a `loss` if the batch has labels. Else it is the sum of all
    floating-point tensors of the output, in float32 at least: every output gets a gradient.
    """
    output = call_model(model, batch)
    own = getattr(output, "loss", None)
    if isinstance(own, Tensor):
        return own
    tensors = {id(leaf): leaf for leaf in leaves_of(output)}
    floats = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    if not floats:
        raise InputError(
            f"{type(model).__name__} returns a {type(output).__name__} without floating-point "
            "tensors, so there is no loss: give a loss of your own"
        )
    sums = [(t.float() if t.itemsize < torch.float32.itemsize else t).sum() for t in floats]
    total: Tensor = sum(sums[1:], start=sums[0])
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
    parameters = list(model.parameters())
    return TrainingCost(
        step=profile_training_step(model, optimizer, batch=batch, loss=loss, fake=fake),
        trainable_params=sum(p.numel() for p in parameters if p.requires_grad),
        total_params=sum(p.numel() for p in parameters),
    )


_INPUT: Final = re.compile(
    r"(?:(?P<name>[^\W\d]\w*)=)?(?P<shape>[0-9]+(?:x[0-9]+)*)(?::(?P<dtype>\w+))?"
)


def load_model(path: str) -> nn.Module:
    """Return the model that an import path names: a callable that builds it, or a class.

    Its weights are those of seed 0. Raises `InputError` for what does not import or make a module.
    """
    model = import_object(path, folder=None, is_wanted=_makes_a_model)
    if not isinstance(model, nn.Module):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = model()
        except Exception as error:  # the function is the caller's and may raise anything
            raise InputError(f"{path} cannot be called without arguments: {told(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{path} returns a {type(model).__name__}, not a torch.nn.Module")
    return model


def _makes_a_model(value: object) -> bool:
    """Return whether a name of a module is worth listing: what it defines, not what it imports."""
    is_class = isinstance(value, type) and issubclass(value, nn.Module)
    return isinstance(value, nn.Module | FunctionType) or is_class


def parse_inputs(texts: Sequence[str]) -> Call:
    """Return the inputs of a model: `8x3x32x32`, `8x128:int64`, or `mask=8x128:bool` by name."""
    args: list[RandomTensor] = []
    kwargs: dict[str, RandomTensor] = {}
    for text in texts:
        parts = _INPUT.fullmatch(text)
        dtype = None if parts is None else getattr(torch, parts["dtype"] or "float32", None)
        if parts is None or not isinstance(dtype, torch.dtype):
            raise InputError(
                f"--input {clean(text)!r} is not [NAME=]SHAPE[:DTYPE], such as 8x3x224x224 or "
                "mask=8x128:int64"
            )
        tensor = RandomTensor(tuple(map(int, parts["shape"].split("x"))), dtype)
        if parts["name"] is None:
            args.append(tensor)
        else:
            kwargs[parts["name"]] = tensor
    return Call(tuple(args), kwargs)


def price_typed(path: str, inputs: Sequence[str]) -> TrainingCost:
    """Price one training step of a model and inputs as typed; whole numbers are 0."""
    batch, model = parse_inputs(inputs), load_model(path)
    try:
        return training_cost(model, batch)
    except PeftRegressError as error:
        raise InputError(f"--model {path}: {error}") from error
    except Exception as error:  # the model is the caller's and may raise anything
        shown = " ".join(f"--input {text}" for text in inputs) or "without --input"
        raise InputError(f"a step of --model {path} {shown} fails: {told(error)}") from error
