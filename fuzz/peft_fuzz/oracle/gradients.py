"""Compare the gradients of an adapter with those of its formula."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from peft_fuzz.oracle.bounds import GRADIENT, apart
from peft_fuzz.oracle.checks import fail
from peft_fuzz.oracle.expected import by_formula, copied, layer_adapter
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.owned import adapter_tensors, is_copy_holder, is_tuner_layer, own_tensors

Named = dict[tuple[str, str], Tensor]
"""Tensors by the path of their layer and their name in it, without the adapter's."""


def check_gradients(life: Life) -> None:
    """Raise NotHeldError if what trains of the one active adapter has other gradients than it must.

    They are those of the output times drawn numbers. In float32, while nothing is merged.
    """
    effect = life.plan.effect()
    if effect is None or len(effect) != 1 or life.plan.merged or life.on.network.shares_a_module:
        return
    if life.method.formula is None or life.start.dtype != torch.float32:
        return
    adapter = effect[0]
    trained = _trained(life, adapter)
    if not trained:
        return
    expected = _of_formula(life, adapter)
    if expected is None:
        return
    for place, actual in _of_model(life, trained).items():
        if place not in expected:
            continue
        largest = max(float(one.abs().max()) for one in expected.values() if one.numel())
        distance = apart(actual, expected[place])
        bound = GRADIENT * (largest + life.oracle.magnitude())
        if not distance <= bound:
            message = (
                f"The gradient of {'.'.join(place)} of adapter {adapter} differs from that of the "
                f"formula by {distance:.1e} of {largest:.1e}; rounding allows {bound:.1e}."
            )
            fail("gradient", message)


def _trained(life: Life, adapter: str) -> Named:
    adapted = life.model.get_base_model()
    return {
        (layer.name, name): tensor
        for layer in life.on.network.layers
        if is_tuner_layer(module := adapted.get_submodule(layer.name))
        for name, tensor in own_tensors(module, adapter).items()
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad and tensor.numel()
    }


def _of_model(life: Life, trained: Mapping[tuple[str, str], Tensor]) -> Named:
    with torch.enable_grad():
        return _gradients(_loss(life, life.called()), trained)


def _of_formula(life: Life, adapter: str) -> Named | None:
    """Return the gradients in each layer by the tensors' names; None if no formula tells."""
    leaves: Named = {}
    parameters: dict[str, Tensor] = {}
    adapted = life.model.get_base_model()
    for layer in life.on.network.layers:
        module = adapted.get_submodule(layer.name)
        if is_copy_holder(module):
            parameters |= copied(module, layer.name, (adapter,))
            continue
        tensors = adapter_tensors(module, adapter) if is_tuner_layer(module) else {}
        if not tensors:
            continue
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                leaves[layer.name, name] = tensor.requires_grad_()
        new = by_formula(
            life.oracle, life.method, layer, [layer_adapter(life.plan, layer, adapter, tensors)]
        )
        if new is None:
            return None
        parameters |= new
    with torch.enable_grad():
        return _gradients(_loss(life, life.oracle.differentiable(parameters)), leaves)


def _gradients(loss: Tensor, of: Mapping[tuple[str, str], Tensor]) -> Named:
    found = (
        torch.autograd.grad(loss, [*of.values()], allow_unused=True)
        if loss.requires_grad
        else [None] * len(of)
    )
    return {
        place: torch.zeros_like(tensor) if gradient is None else gradient
        for (place, tensor), gradient in zip(of.items(), found, strict=True)
    }


def _loss(life: Life, output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(life.on.network.seed)
    drawn = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    loss: Tensor = (output.double() * drawn).sum()
    return loss
