"""Compute what an adapted model must return: the base with the formulas' parameters, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from peft_fuzz.methods import LayerAdapter, Method
from peft_fuzz.networks.build import CONVOLUTIONS
from peft_fuzz.networks.network import Layer, Network
from peft_fuzz.oracle.checks import fail
from peft_fuzz.oracle.owned import adapter_tensors, is_copy_holder, is_tuner_layer
from peft_fuzz.oracle.plan import Plan


class Oracle:
    """The network without adapters, in float64."""

    def __init__(self, reference: nn.Module, x: Tensor) -> None:
        self.base = deepcopy(reference).double()
        self.x = x.double() if x.is_floating_point() else x

    def output(self, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the network's output with other parameters."""
        with torch.no_grad():
            return self.differentiable(parameters or {})

    def differentiable(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the network's output with other parameters, and the graph of its gradients."""
        return self._call(dict(parameters), self.x)

    def magnitude(self, parameters: Mapping[str, Tensor] | None = None) -> float:
        """Return the largest sum of the absolute values of all terms of an output.

        It is what rounding errors are relative to. An attention is not linear: it counts ten times
        its largest output.
        """
        if any(isinstance(module, nn.MultiheadAttention) for module in self.base.modules()):
            return 10 * float(self.output(parameters).abs().max())
        own = dict(self.base.named_parameters())
        large = {name: value.abs() for name, value in own.items()}
        for name, value in (parameters or {}).items():
            old = own.get(name)
            same = old is not None and old.shape == value.shape
            large[name] = old.abs() + (value - old).abs() if same else value.abs()  # type: ignore[union-attr,operator]
        x = self.x.abs() if self.x.is_floating_point() else self.x
        with torch.no_grad():
            return float(self._call(large, x).abs().max())

    def _call(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        grouped: dict[Any, int] = {}
        for name, value in parameters.items():
            path = name.rpartition(".")[0]
            module: Any = self.base.get_submodule(path)
            if type(module) in CONVOLUTIONS.values() and name.endswith("weight"):
                grouped[module] = module.groups
                module.groups = module.in_channels // value.shape[1]
        try:
            # With ties, torch 2.13 does not put a shared module's own weights back.
            output: Tensor = functional_call(
                self.base, parameters, (x,), strict=False, tie_weights=False
            )
        finally:
            for module, groups in grouped.items():
                module.groups = groups
        return output


def parameters(
    oracle: Oracle, model: nn.Module, plan: Plan, method: Method, effect: Sequence[str]
) -> dict[str, Tensor] | None:
    """Return the parameters that differ from the base's when the adapters `effect` act.

    None if a formula does not tell, and for a shared module, of which the library's documentation
    does not say whether each use of it is adapted.
    """
    if plan.on.network.shares_a_module:
        return None
    found: dict[str, Tensor] = {}
    adapted = model.get_base_model()  # type: ignore[operator]
    for layer in plan.on.network.layers:
        module = adapted.get_submodule(layer.name)
        if is_copy_holder(module):
            found |= copied(module, layer.name, effect)
        elif is_tuner_layer(module):
            new = _adapted(oracle, module, layer, effect, plan=plan, method=method)
            if new is None:
                return None
            found |= new
        else:
            for name in effect:
                _check_left_out(plan, layer, name)
    return found


def _check_left_out(plan: Plan, layer: Layer, name: str) -> None:
    if layer.name in plan.targets(name):
        fail("function", f"Adapter {name} is not on {layer.name}, which it must adapt.")


def _adapted(  # noqa: PLR0913
    oracle: Oracle,
    module: nn.Module,
    layer: Layer,
    effect: Sequence[str],
    *,
    plan: Plan,
    method: Method,
) -> dict[str, Tensor] | None:
    adapters = []
    for name in effect:
        tensors = adapter_tensors(module, name)
        if not tensors:
            if method.formula is not None:
                _check_left_out(plan, layer, name)
            continue
        if layer.name not in plan.targets(name):
            fail("function", f"Adapter {name} is on {layer.name}, which it must not adapt.")
        adapters.append(layer_adapter(plan, layer, name, tensors))
    if not adapters:
        return {}
    with torch.no_grad():
        return by_formula(oracle, method, layer, adapters)


def layer_adapter(
    plan: Plan, layer: Layer, name: str, tensors: Mapping[str, Tensor]
) -> LayerAdapter:
    """Return what the formula needs of an adapter."""
    return LayerAdapter(settings=plan.settings[name], layer_name=layer.name, tensors=tensors)


def by_formula(
    oracle: Oracle, method: Method, layer: Layer, adapters: Sequence[LayerAdapter]
) -> dict[str, Tensor] | None:
    """Return the parameters of a layer with adapters, by their names in the network."""
    base = oracle.base.get_submodule(layer.name)
    new = method.parameters(base, layer, adapters)
    return None if new is None else {f"{layer.name}.{key}": value for key, value in new.items()}


def check_copies(model: nn.Module, network: Network) -> None:
    """Raise NotHeldError if an adapter, or a copy, has been put into a copy of a layer."""
    adapted = model.get_base_model()  # type: ignore[operator]
    for layer in network.layers:
        holder = adapted.get_submodule(layer.name)
        if not is_copy_holder(holder):
            continue
        for name, copy in holder.modules_to_save.items():
            if any(is_tuner_layer(inner) or is_copy_holder(inner) for inner in copy.modules()):
                fail("leak", f"The copy of {layer.name} that adapter {name} trains is adapted.")


def copied(holder: nn.Module, path: str, effect: Sequence[str]) -> dict[str, Tensor]:
    """Return the parameters of the copy that acts in place of a layer."""
    found: dict[str, Tensor] = {}
    copies: nn.ModuleDict = holder.modules_to_save  # type: ignore[assignment]
    for name in copies:
        if name in effect:
            mine = copies[name].named_parameters()
            found |= {f"{path}.{key}": tensor.detach().double() for key, tensor in mine}
    return found
