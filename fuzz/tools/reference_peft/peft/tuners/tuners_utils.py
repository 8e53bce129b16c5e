"""A layer with adapters of one method, and a layer with trained copies."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Weight(nn.Module):
    """Holds one parameter under the name `weight`."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight


class Holder(nn.Module):
    """Holds what adapters have, in dictionaries of this module, under the adapter's name."""

    containers: tuple[str, ...] = ()
    """Dictionaries by adapter: of parameters, or (`lora_A.weight`) of modules with a `weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}
        self.scaling: dict[str, float] = {}
        self.active: list[str] = []
        self.enabled = True
        for container in self.containers:
            holder, _, inner = container.partition(".")
            self.add_module(holder, nn.ModuleDict() if inner else nn.ParameterDict())

    def put(self, name: str, container: str, parameter: nn.Parameter) -> None:
        """Give an adapter a parameter."""
        holder, _, inner = container.partition(".")
        getattr(self, holder)[name] = Weight(parameter) if inner else parameter

    def tensors(self, name: str) -> dict[str, nn.Parameter]:
        """Return an adapter's parameters by container."""
        found = {}
        for container in self.containers:
            holder, _, inner = container.partition(".")
            held = getattr(self, holder)
            if name in held:
                found[container] = held[name].weight if inner else held[name]
        return found

    def delete(self, name: str) -> None:
        """Remove all that belongs to an adapter."""
        for held in self.children():
            if isinstance(held, nn.ModuleDict | nn.ParameterDict) and name in held:
                del held[name]
        self.settings.pop(name, None)
        self.scaling.pop(name, None)
        self.active = [one for one in self.active if one != name]


class BaseTunerLayer(Holder):
    """A layer whose parameters the active adapters change.

    A method says what is made for an adapter (`make`) and which parameters the layer has with one
    (`changed`). Merging copies these into the base layer and keeps what was there.
    """

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.path = name
        self.merged: list[str] = []
        self.kept: dict[str, Tensor] = {}

    def get_base_layer(self) -> nn.Module:
        """Return the layer that the network had."""
        return self.base_layer

    def make(self, config: Any) -> dict[str, Tensor]:
        """Return the new parameters of an adapter, by container, in float32."""
        raise NotImplementedError

    def changed(self, own: dict[str, Tensor], name: str, *, draws: bool) -> dict[str, Tensor]:
        """Return the layer's parameters with an adapter.

        own: those without it, in float32. draws: whether dropout draws.
        """
        raise NotImplementedError

    def output(self, x: Tensor, names: list[str]) -> Tensor:
        """Return the layer's output with adapters that are not merged."""
        own = {key: value.float() for key, value in self.base_layer.named_parameters()}
        for name in names:
            own = self.changed(own, name, draws=self.training)
        dtype = self.dtype
        output: Tensor = functional_call(
            self.base_layer, {key: value.to(dtype) for key, value in own.items()}, (x,)
        )
        return output

    def forward(self, x: Tensor) -> Tensor:
        """Return the output with the active adapters."""
        if not self.enabled:
            self.unmerge()
        names = [name for name in self.active if name in self.settings]
        if not self.enabled or self.merged or not names:
            output: Tensor = self.base_layer(x)
            return output
        return self.output(x, names)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the base layer's weight."""
        return next(self.base_layer.parameters()).dtype

    def add(self, name: str, config: Any, *, dtype: torch.dtype | None) -> None:
        """Give the layer an adapter that does not train yet; dtype None is the layer's own."""
        for container, tensor in self.make(config).items():
            parameter = nn.Parameter(tensor.to(dtype or self.dtype), requires_grad=False)
            self.put(name, container, parameter)
        self.settings[name] = config
        self.scaling[name] = config.scaling(self.path) if hasattr(config, "scaling") else 1.0

    def merge(self, names: list[str]) -> dict[str, Tensor]:
        """Return the parameters with more adapters merged; `write` puts them in."""
        own = {key: value.detach().float() for key, value in self.base_layer.named_parameters()}
        for name in names:
            if name in self.settings:
                own = self.changed(own, name, draws=False)
        return own

    @torch.no_grad()
    def write(self, own: dict[str, Tensor], names: list[str]) -> None:
        """Put merged parameters into the base layer."""
        parameters = dict(self.base_layer.named_parameters())
        if not self.merged:
            self.kept = {key: value.detach().clone() for key, value in parameters.items()}
        for key, value in own.items():
            parameters[key].copy_(value)
        self.merged += names

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the parameters back that were there before merging."""
        for key, parameter in self.base_layer.named_parameters():
            if key in self.kept:
                parameter.copy_(self.kept[key])
        self.merged, self.kept = [], {}


class ModulesToSave(Holder):
    """A layer of which each adapter may have a copy that trains instead."""

    def __init__(self, original_module: nn.Module) -> None:
        super().__init__()
        self.original_module = original_module
        self.modules_to_save = nn.ModuleDict()

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """Return the output of the active adapter's copy, or of the layer."""
        chosen = [name for name in self.active if name in self.modules_to_save]
        if self.enabled and chosen:
            return self.modules_to_save[chosen[0]](*args, **keywords)
        return self.original_module(*args, **keywords)

    def add(self, name: str) -> None:
        """Give an adapter a copy that does not train yet."""
        self.settings[name] = None
        self.modules_to_save[name] = deepcopy(self.original_module).requires_grad_(
            requires_grad=False
        )

    def tensors(self, name: str) -> dict[str, nn.Parameter]:
        """Return the parameters of an adapter's copy."""
        if name not in self.modules_to_save:
            return {}
        return dict(self.modules_to_save[name].named_parameters())
