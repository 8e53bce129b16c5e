"""Swap the weights of an adapter for saved ones."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from peft.configs import LoraConfig, load_config
from peft.peft_model import PeftModel
from peft.tuners.methods import LoraLayer, is_up


def prepare_model_for_compiled_hotswap(model: PeftModel, *, target_rank: int) -> None:
    """Give all adapters this rank, by zeros, so that any adapter up to it can be swapped in."""
    for layer in model.base_model.layers():
        for name in list(layer.settings):
            for key, tensor in layer.tensors(name).items():
                shape = list(tensor.shape)
                if shape[int(is_up(key))] > target_rank:
                    raise ValueError(f"adapter {name!r} has a rank above {target_rank}")
                shape[int(is_up(key))] = target_rank
                padded = torch.zeros(shape, dtype=tensor.dtype)
                padded[tuple(slice(size) for size in tensor.shape)] = tensor.detach()
                layer.put(name, key, nn.Parameter(padded, requires_grad=tensor.requires_grad))


def hotswap_adapter(model: PeftModel, folder: str, adapter_name: str, torch_device: str) -> None:
    """Put saved weights and their scale in place of an adapter's; raise ValueError if merged."""
    del torch_device
    layers = [one for one in model.base_model.layers() if isinstance(one, LoraLayer)]
    if any(layer.merged for layer in layers):
        raise ValueError(f"adapter {adapter_name!r} is merged")
    config: LoraConfig = load_config(Path(folder))  # type: ignore[assignment]
    model.put(adapter_name, load_file(Path(folder) / "adapter_model.safetensors"))
    for layer in layers:
        if adapter_name in layer.settings:
            layer.scaling[adapter_name] = config.scaling(layer.path)
