"""Read off a failing example what it needs besides the plainest network and life: its traits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from peft_fuzz.acts import AnyAct
from peft_fuzz.example import Example
from peft_fuzz.networks.network import DIMENSIONS, Adapter, Layer, Network

COPIES: Final = "modules_to_save"
"""The setting that all methods share."""

_SIZED: Final = frozenset({"target_modules", "r", "lora_alpha", "alpha", "inference_mode"})
"""Settings that nearly every adapter has: they tell no two causes apart."""


def traits_of(
    example: Example, done: Sequence[AnyAct], *, is_refused: bool = False
) -> tuple[str, ...]:
    """Return the traits of an example, sorted, with the acts that were done."""
    refused = {"a refused act"} if is_refused else set()
    return tuple(sorted({*_traits(example, done)} | refused))


def _traits(example: Example, done: Sequence[AnyAct]) -> Iterator[str]:
    yield from _network_traits(example.network)
    for adapter in example.adapters:
        yield from _adapter_traits(adapter)
    if not example.autocast:
        yield "autocast_adapter_dtype=False"
    if len(example.adapters) > 1 or any([*act.named()] for act in done):
        yield "several adapters"
    if _adapter_names(example, done) & _module_names(example.network):
        yield "adapter named as a layer"
    for act in done[:-1]:
        if not act.is_usual:
            yield f"after {act.kind}"
    for act in done:
        yield from act.traits()


def _adapter_names(example: Example, acts: Sequence[AnyAct]) -> set[str]:
    new = {name for act in acts for name in act.named()}
    return new.union(adapter.name for adapter in example.adapters)


def _module_names(network: Network) -> set[str]:
    """Return the names of all modules, without those of the modules that hold them."""
    return {part for layer in network.layers for part in layer.name.split(".")}


def _network_traits(network: Network) -> Iterator[str]:
    if network.dtype != "float32":
        yield "half precision"
    if network.channels_last:
        yield "channels_last"
    for layer in network.layers:
        yield from _layer_traits(layer)
    if any(_overlap(one.name, other.name) for one, other in _pairs(network.layers)):
        yield "a name that begins another name"


def _layer_traits(layer: Layer) -> Iterator[str]:
    if layer.is_convolution:
        # A defect of all convolutions shrinks to one dimension, and explains more of them.
        yield from ("convolution", "over 2d", "over 3d")[: DIMENSIONS[layer.kind]]
        yield from _convolution_traits(layer)
    elif layer.kind != "linear":
        yield layer.kind.replace("_", " ")
    if not layer.bias and layer.kind != "embedding":
        yield "no bias"
    if layer.kind not in {"attention", "embedding"} and layer.inputs != layer.outputs:
        yield "not square"
    if layer.same_as is not None:
        yield "shared module"
    if "." in layer.name:
        yield "nested name"
    if _ODD_NAME.search(layer.name):
        yield "odd name"


_ODD_NAME: Final = re.compile(r"weight|bias|lora|default|base_layer|modules_to_save|\bmodel\b")


def _convolution_traits(layer: Layer) -> Iterator[str]:
    if layer.groups > 1:
        yield "groups"
    if layer.padding_mode != "zeros":
        yield "padding mode"
    if layer.padding == "same":
        yield "same padding"
    for name in ("stride", "dilation"):
        if any(size > 1 for size in getattr(layer, name)):
            yield name
    if len(set(layer.kernel)) > 1:
        yield "uneven kernel"
    elif all(size == 1 for size in layer.kernel):
        yield "kernel of one"


def _adapter_traits(adapter: Adapter) -> Iterator[str]:
    for name, value in adapter.settings.items():
        if name in _SIZED:
            if name == "target_modules" and isinstance(value, str):
                yield "target pattern"
        elif isinstance(value, str):
            yield f"setting {name}={value}"
        elif isinstance(value, bool):
            yield f"setting {name}" if value else f"setting {name}=False"
        else:
            yield f"setting {name}"
    if adapter.name != "default":
        yield from (["odd name"] if _ODD_NAME.search(adapter.name) else [])


def _pairs(layers: Sequence[Layer]) -> Iterator[tuple[Layer, Layer]]:
    for layer in layers:
        for other in layers:
            if layer is not other:
                yield layer, other


def _overlap(name: str, other: str) -> bool:
    return name != other and other.startswith(name) and not other.startswith(f"{name}.")
