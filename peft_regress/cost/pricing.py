"""Price the training of any module on any batch, from a notebook or by import path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peft_regress.cost.batches import leaves_of
from peft_regress.cost.inference import call_model
from peft_regress.cost.measuring import on_fake_or_real
from peft_regress.cost.profile import profile_training_step
from peft_regress.errors import InputError
from peft_regress.metrics import COST_METRICS, Metric, make_metric

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
