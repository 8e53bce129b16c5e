"""Build the network of an example, and its input, in plain torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from peft_fuzz.networks.network import Kind, Layer, Network

CONVOLUTIONS: Final[Mapping[Kind, type[nn.Module]]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}
DTYPES: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    """Let torch compute with its own kernels, which are right on each CPU.

    What oneDNN computes depends on the CPU. With torch 2.13 and AVX512-BF16 it leaves outputs of
    convolutions in bfloat16 as they were in memory (pytorch/pytorch#169688), writes past the
    gradients of their weights, and ends the process on dilated kernels of one weight
    (uxlfoundation/oneDNN#5942).
    """
    switch: Any = torch.backends.mkldnn  # its `flags` would set precisions, too
    before, switch.enabled = switch.enabled, False
    try:
        yield
    finally:
        switch.enabled = before


class Sequence(nn.Module):
    """Run layers one after another, each under its dotted path."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.steps = tuple((layer.name, layer.kind) for layer in network.layers)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of the last layer.

        x: (batch, channels, *sizes), (batch, tokens), (batch, tokens, features) or
        (batch, features).
        """
        in_space = False
        for name, kind in self.steps:
            if in_space and kind not in CONVOLUTIONS:
                x, in_space = x.flatten(2).mean(2), False
            in_space = in_space or kind in CONVOLUTIONS
            module: Any = self
            for part in name.split("."):
                module = getattr(module, part)
            x = module(x, x, x, need_weights=False)[0] if kind == "attention" else module(x)
        return x


def build(network: Network) -> Sequence:
    """Return the network with seeded weights, in its dtype and memory format, for evaluation."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(network.seed)
        root = Sequence(network)
        made: dict[str, nn.Module] = {}
        for layer in network.layers:
            made[layer.name] = module = made[layer.same_as] if layer.same_as else build_layer(layer)
            *containers, name = layer.name.split(".")
            parent: nn.Module = root
            for container in containers:
                if container not in dict(parent.named_children()):
                    parent.add_module(container, nn.Module())
                parent = parent.get_submodule(container)
            parent.add_module(name, module)
    root.to(DTYPES[network.dtype])
    if network.channels_last:
        lay_out(root, torch.channels_last)
    return root.eval()


def make_input(network: Network) -> Tensor:
    """Return the seeded input, in the network's dtype and memory format.

    Returns (batch, channels, *sizes) for a convolution, integers (batch, tokens) for an embedding,
    else (batch, *sizes, features).
    """
    generator = torch.Generator().manual_seed(network.seed + 1)
    first, sizes = network.layers[0], network.sizes
    if first.kind == "embedding":
        return torch.randint(first.inputs, (network.batch, *sizes), generator=generator)
    shape = (
        (network.batch, first.inputs, *sizes)
        if first.kind in CONVOLUTIONS
        else (network.batch, *sizes, first.inputs)
    )
    x = torch.randn(shape, generator=generator).to(DTYPES[network.dtype])
    if network.channels_last and x.dim() == 4:  # noqa: PLR2004
        x = x.contiguous(memory_format=torch.channels_last)
    return x


def runs(network: Network) -> bool:
    """Return whether the network itself runs."""
    try:
        with torch.no_grad(), without_onednn():
            build(network)(make_input(network))
    except Exception:  # noqa: BLE001  (an edit may have made anything of it)
        return False
    return True


def lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    """Change the memory format of the weights of four dimensions, in place."""
    module.to(memory_format=layout)  # type: ignore[call-overload]


def build_layer(layer: Layer) -> nn.Module:
    """Return one layer as a module in float32."""
    if layer.kind in CONVOLUTIONS:
        ones = (1,) * len(layer.kernel)
        return CONVOLUTIONS[layer.kind](
            layer.inputs,
            layer.outputs,
            layer.kernel,
            stride=layer.stride or ones,
            padding=layer.padding or (0,) * len(layer.kernel),
            dilation=layer.dilation or ones,
            groups=layer.groups,
            bias=layer.bias,
            padding_mode=layer.padding_mode,
        )
    if layer.kind == "embedding":
        return nn.Embedding(layer.inputs, layer.outputs)
    if layer.kind == "attention":
        return nn.MultiheadAttention(layer.inputs, layer.heads, bias=layer.bias, batch_first=True)
    if layer.kind == "transposed_linear":
        from transformers.pytorch_utils import Conv1D

        module: Any = Conv1D(layer.outputs, layer.inputs)  # type: ignore[no-untyped-call]
        # Its own start, 0.02, would hide an error behind the bounds.
        nn.init.normal_(module.weight, std=layer.inputs**-0.5)
        nn.init.normal_(module.bias, std=0.1)
        built: nn.Module = module
        return built
    return nn.Linear(layer.inputs, layer.outputs, bias=layer.bias)
