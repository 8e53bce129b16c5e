"""Write a network as a class of a script."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final

from peft_fuzz.networks.network import Layer, Network

_CLASSES: Final = {"conv1d": "nn.Conv1d", "conv2d": "nn.Conv2d", "conv3d": "nn.Conv3d"}


def network_code(network: Network) -> str:
    """Return a class `Network` with the layers of a network."""
    lines = ["super().__init__()"]
    made: set[str] = set()
    for layer in network.layers:
        *containers, _ = layer.name.split(".")
        for depth in range(1, len(containers) + 1):
            path = ".".join(containers[:depth])
            if path not in made:
                made.add(path)
                lines.append(f"{_place(path)} = nn.Module()")
        if layer.same_as is not None:
            lines.append(f"{_place(layer.name)} = {_place(layer.same_as)}")
        else:
            lines += list(_layer_lines(layer))
    init, forward = ("\n".join(part) for part in (lines, _forward(network)))
    return (
        "class Network(nn.Module):\n"
        f"    def __init__(self):\n{textwrap.indent(init, ' ' * 8)}\n\n"
        f"    def forward(self, x):\n{textwrap.indent(forward, ' ' * 8)}"
    )


def _place(path: str) -> str:
    """Return the code of a path; a name that is no identifier needs another form."""
    code = "self"
    for part in path.split("."):
        code += f".{part}" if part.isidentifier() else f"._modules[{part!r}]"
    return code


def _layer_lines(layer: Layer) -> Iterator[str]:
    place = _place(layer.name)
    if layer.kind == "transposed_linear":
        yield f"{place} = Conv1D({layer.outputs}, {layer.inputs})"
        yield f"nn.init.normal_({place}.weight, std={layer.inputs} ** -0.5)"
        yield f"nn.init.normal_({place}.bias, std=0.1)"
        return
    yield f"{place} = {_layer_code(layer)}"


def _layer_code(layer: Layer) -> str:
    bias = "" if layer.bias else ", bias=False"
    sizes = f"{layer.inputs}, {layer.outputs}"
    if layer.kind in _CLASSES:
        extra = "".join(
            f", {name}={_size(getattr(layer, name))}"
            for name in ("stride", "padding", "dilation")
            if getattr(layer, name)
        )
        extra += f", groups={layer.groups}" if layer.groups > 1 else ""
        mode = layer.padding_mode
        extra += "" if mode == "zeros" else f", padding_mode={mode!r}"
        return f"{_CLASSES[layer.kind]}({sizes}, {_size(layer.kernel)}{extra}{bias})"
    if layer.kind == "embedding":
        return f"nn.Embedding({sizes})"
    if layer.kind == "attention":
        width = f"{layer.inputs}, {layer.heads}"
        return f"nn.MultiheadAttention({width}{bias}, batch_first=True)"
    return f"nn.Linear({sizes}{bias})"


def _size(value: tuple[int, ...] | str) -> str:
    if isinstance(value, str):
        return repr(value)
    return str(value[0]) if len(set(value)) == 1 else repr(tuple(value))


def _forward(network: Network) -> Iterator[str]:
    in_space = False
    for layer in network.layers:
        place, is_convolution = _place(layer.name), layer.kind in _CLASSES
        if in_space and not is_convolution:
            yield "x = x.flatten(2).mean(2)"
        in_space = is_convolution
        if layer.kind == "attention":
            yield f"x = {place}(x, x, x, need_weights=False)[0]"
        else:
            yield f"x = {place}(x)"
    yield "return x"
