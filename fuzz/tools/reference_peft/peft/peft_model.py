"""A network with adapters, and all that is done with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peft.configs import PeftConfig, load_config
from peft.tuners.methods import layer_class
from peft.tuners.tuners_utils import BaseTunerLayer, Holder, ModulesToSave

PREFIX = "base_model.model."


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in place of another one, wherever that is used."""
    for parent in list(model.modules()):
        if parent is not new:
            for name, child in list(parent._modules.items()):  # noqa: SLF001  (twice the same, too)
                if child is old:
                    setattr(parent, name, new)


class Tuner(nn.Module):
    """Holds the network, and switches adapters in it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.enabled = True
        self.frozen: set[str] = set()

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """Return the network's output."""
        return self.model(*args, **keywords)

    def holders(self) -> list[tuple[str, Any]]:
        """Return what holds adapters, by its path in the network."""
        return [
            (path, module)
            for path, module in self.model.named_modules()
            if isinstance(module, Holder)
        ]

    def layers(self) -> list[BaseTunerLayer]:
        """Return the layers with adapters."""
        return [one for _, one in self.holders() if isinstance(one, BaseTunerLayer)]

    def set_adapter(self, names: str | list[str]) -> None:
        """Make these adapters active, so that they train; merged ones are taken out."""
        chosen = [names] if isinstance(names, str) else list(names)
        for layer in self.layers():
            if layer.merged:
                layer.unmerge()
        for _, holder in self.holders():
            holder.active = list(chosen)
        self.frozen = set()
        self.train_active()

    def train_active(self) -> None:
        """Let the active adapters train, but no frozen one; none if they are disabled."""
        for _, holder in self.holders():
            for name in holder.settings:
                trains = self.enabled and name in holder.active and name not in self.frozen
                for parameter in holder.tensors(name).values():
                    parameter.requires_grad = trains

    def enable_adapter_layers(self) -> None:
        """Switch the adapters on again."""
        self._switch(on=True)

    def disable_adapter_layers(self) -> None:
        """Switch all adapters off; merged ones are taken out by the next call."""
        self._switch(on=False)

    def _switch(self, *, on: bool) -> None:
        self.enabled = on
        for _, holder in self.holders():
            holder.enabled = on
        self.train_active()


class PeftModel(nn.Module):
    """A network with adapters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for parameter in model.parameters():
            parameter.requires_grad = False
        self.base_model = Tuner(model)
        self.peft_config: dict[str, PeftConfig] = {}
        self.autocast = True

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module,
        folder: str,
        adapter_name: str = "default",
        *,
        is_trainable: bool = False,
        autocast_adapter_dtype: bool = True,
    ) -> Self:
        """Return a network with a saved adapter; it trains only if that is asked for."""
        made = cls(model)
        made.autocast = autocast_adapter_dtype
        made.load_adapter(folder, adapter_name, is_trainable=is_trainable)
        made.base_model.set_adapter(adapter_name)
        if not is_trainable:
            made.base_model.frozen = {adapter_name}
            made.base_model.train_active()
            made.eval()
        return made

    def get_base_model(self) -> nn.Module:
        """Return the network, with its adapted layers."""
        return self.base_model.model

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """Return the output."""
        return self.base_model(*args, **keywords)

    def add_adapter(self, adapter_name: str, config: PeftConfig, **_options: Any) -> None:
        """Add an adapter, which is not active; raise ValueError if that is impossible."""
        if adapter_name in self.peft_config:
            raise ValueError(f"there is an adapter {adapter_name!r} already")
        plan = self._plan(config)
        active = self._active()
        dtype = torch.float32 if self.autocast else None
        wrappers: dict[str, Any] = {}
        for path, module in plan.items():
            wrapper: Any
            if isinstance(module, Holder):
                wrapper = module
            elif config.targets(path):
                wrapper = layer_class(config, module)(module, path)
            else:
                wrapper = ModulesToSave(module)
            if isinstance(wrapper, BaseTunerLayer):
                wrapper.add(adapter_name, config, dtype=dtype)
            else:
                wrapper.add(adapter_name)
            wrapper.active, wrapper.enabled = list(active), self.base_model.enabled
            wrapper.train(module.training)
            wrappers[path] = wrapper
        for path, wrapper in wrappers.items():
            replace(self.base_model.model, plan[path], wrapper)
        self.peft_config[adapter_name] = config

    def _plan(self, config: PeftConfig) -> dict[str, nn.Module]:
        """Return the modules that an adapter is about; raise ValueError if it cannot have them."""
        found: dict[str, nn.Module] = {}
        inside: tuple[str, ...] = ()
        for path, module in self.base_model.model.named_modules():
            if not path or path.startswith(inside):
                continue
            if isinstance(module, Holder):
                inside = (*inside, f"{path}.")
            targeted, copied = config.targets(path), config.copies(path)
            if not (targeted or copied):
                continue
            is_other = isinstance(module, ModulesToSave if targeted else BaseTunerLayer)
            if (targeted and copied) or is_other:
                raise ValueError(f"{path} cannot have an adapter and a copy")
            if targeted and not isinstance(module, BaseTunerLayer):
                layer_class(config, module)
            found[path] = module
        if not any(config.targets(path) for path in found):
            raise ValueError("target_modules matches no layer")
        return found

    def _active(self) -> list[str]:
        for _, holder in self.base_model.holders():
            return list(holder.active)
        return []

    def set_adapter(self, adapter_name: str) -> None:
        """Make one adapter active."""
        if adapter_name not in self.peft_config:
            raise ValueError(f"there is no adapter {adapter_name!r}")
        self.base_model.set_adapter(adapter_name)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Switch all adapters off for a while."""
        self.base_model.disable_adapter_layers()
        try:
            yield
        finally:
            self.base_model.enable_adapter_layers()

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter that is not merged; if none is active then, the first one is."""
        if any(adapter_name in layer.merged for layer in self.base_model.layers()):
            raise ValueError(f"adapter {adapter_name!r} is merged")
        for _, holder in self.base_model.holders():
            holder.delete(adapter_name)
        del self.peft_config[adapter_name]
        self.base_model.frozen.discard(adapter_name)
        if not self._active() and self.peft_config:
            self.set_adapter(next(iter(self.peft_config)))

    def merge_adapter(
        self, adapter_names: list[str] | None = None, *, safe_merge: bool = False
    ) -> None:
        """Merge adapters into the base weights; all layers or, if one refuses, none."""
        chosen = adapter_names or self._active()
        planned = []
        for layer in self.base_model.layers():
            new = [one for one in chosen if one in layer.settings and one not in layer.merged]
            merged = layer.merge(new)
            if safe_merge and not all(bool(one.isfinite().all()) for one in merged.values()):
                raise ValueError(
                    f"merging {', '.join(new)} would give {layer.path} values that are not finite"
                )
            planned.append((layer, merged, new))
        for layer, merged, new in planned:
            if new:
                layer.write(merged, new)

    def unmerge_adapter(self) -> None:
        """Take all merged adapters out."""
        for layer in self.base_model.layers():
            layer.unmerge()

    def merge_and_unload(self, *, safe_merge: bool = False) -> nn.Module:
        """Merge the active adapters, and return the network without what wraps its layers."""
        self.merge_adapter(safe_merge=safe_merge)
        return self.unload()

    def unload(self) -> nn.Module:
        """Return the network without what wraps its layers, with the active copies."""
        model = self.base_model.model
        for _, holder in self.base_model.holders():
            if isinstance(holder, BaseTunerLayer):
                module = holder.base_layer
            else:
                copies = [one for one in holder.active if one in holder.modules_to_save]
                module = holder.modules_to_save[copies[0]] if copies else holder.original_module
            replace(model, holder, module)
        return model

    def state(self, name: str) -> dict[str, Tensor]:
        """Return an adapter's tensors as they are saved."""
        return {
            f"{PREFIX}{path}.{key}": tensor.detach().clone().contiguous()
            for path, holder in self.base_model.holders()
            for key, tensor in holder.tensors(name).items()
        }

    def save_pretrained(self, folder: str, selected_adapters: list[str] | None = None) -> None:
        """Save adapters, each into a folder of its own, but `default` into the folder itself."""
        for name in selected_adapters or list(self.peft_config):
            place = Path(folder) if name == "default" else Path(folder) / name
            place.mkdir(parents=True, exist_ok=True)
            save_file(self.state(name), place / "adapter_model.safetensors")
            self.peft_config[name].save(place)

    def load_adapter(
        self, folder: str, adapter_name: str, *, is_trainable: bool = False, **_: Any
    ) -> None:
        """Load an adapter beside others; it is not active."""
        place = Path(folder)
        config = load_config(place)
        config.inference_mode = not is_trainable
        self.add_adapter(adapter_name, config)
        self.put(adapter_name, load_file(place / "adapter_model.safetensors"))
        if not is_trainable:
            self.base_model.frozen.add(adapter_name)
            self.eval()

    @torch.no_grad()
    def put(self, name: str, state: dict[str, Tensor]) -> None:
        """Copy saved tensors into an adapter; smaller ones into its first ranks."""
        for path, holder in self.base_model.holders():
            for key, tensor in holder.tensors(name).items():
                saved = state[f"{PREFIX}{path}.{key}"]
                tensor.zero_()
                tensor[tuple(slice(size) for size in saved.shape)] = saved.to(tensor.dtype)


def get_peft_model(
    model: nn.Module,
    config: PeftConfig,
    adapter_name: str = "default",
    *,
    autocast_adapter_dtype: bool = True,
) -> PeftModel:
    """Return a network with an adapter, which is active and trains unless it is for inference."""
    made = PeftModel(model)
    made.autocast = autocast_adapter_dtype
    made.add_adapter(adapter_name, config)
    made.base_model.set_adapter(adapter_name)
    if config.inference_mode:
        made.base_model.frozen = {adapter_name}
        made.base_model.train_active()
    return made
