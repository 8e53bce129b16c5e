"""A layer with adapters by peft, filled with random numbers, beside what a formula says of it."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import torch
from torch import nn

from peft_fuzz.methods import METHODS, LayerAdapter
from peft_fuzz.networks.build import build_layer
from peft_fuzz.networks.network import Layer
from peft_fuzz.oracle.owned import adapter_tensors

SPACE = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


def layer(kind="linear", *, inputs=4, outputs=6, **fields):
    if kind in SPACE:
        fields = {"kernel": (3,) * SPACE[kind], **fields}
    return Layer(name="net.part", kind=kind, inputs=inputs, outputs=outputs, **fields)


def build(part):
    torch.manual_seed(0)
    return build_layer(part)


def make_input(part):
    generator = torch.Generator().manual_seed(1)
    if part.kind == "embedding":
        return torch.arange(part.inputs).repeat(3, 1)
    if part.kind in SPACE:
        shape = (3, part.inputs, *(7, 6, 5)[: SPACE[part.kind]])
    elif part.kind == "attention":
        shape = (3, 5, part.inputs)
    else:
        shape = (3, part.inputs)
    return torch.randn(shape, generator=generator)


class Net(nn.Module):
    """The layer at `net.part`."""

    def __init__(self, part):
        super().__init__()
        self.net = nn.Module()
        self.net.part = build(part)
        self.attention = part.kind == "attention"

    def forward(self, x):
        return self.net.part(x, x, x)[0] if self.attention else self.net.part(x)


@dataclass(frozen=True)
class Results:
    """Outputs of one layer: by its formula, by peft unmerged and merged (None: refused)."""

    by_formula: torch.Tensor | None
    base: torch.Tensor
    unmerged: torch.Tensor
    merged: torch.Tensor | None


def run(method, part, *adapters, fill=0.3, merges=True):
    import peft

    chosen = METHODS[method]
    net = Net(part).eval()
    original = copy.deepcopy(net)
    x = make_input(part)
    names = ["default", "other"][: len(adapters)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        configs = [
            getattr(peft, chosen.config)(
                **{"target_modules": ["net.part"], **chosen.fixed, **settings}
            )
            for settings in adapters
        ]
        model = peft.get_peft_model(net, configs[0])
        for name, config in zip(names[1:], configs[1:], strict=True):
            model.add_adapter(name, config)
        if len(adapters) > 1:
            model.base_model.set_adapter(names)
        model.eval()
    adapted = model.base_model.model.net.part
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            if fill and parameter.requires_grad:
                parameter.add_(fill * torch.randn(parameter.shape, generator=generator))
        plain = adapted.get_base_layer()
        base = build(part)
        base.load_state_dict(
            {
                name.replace("base_layer.", ""): value
                for name, value in plain.state_dict().items()
                if name.replace("base_layer.", "") in base.state_dict()
            }
        )
        found = chosen.parameters(
            base.double(),
            part,
            [
                LayerAdapter(
                    settings=settings, layer_name="net.part", tensors=adapter_tensors(adapted, name)
                )
                for name, settings in zip(names, adapters, strict=True)
            ],
        )
        by_formula = None if found is None else reference(base, part, found, x)
        unmerged = model(x)
        merged = None
        if merges:
            model.merge_adapter()
            merged = model(x)
        return Results(by_formula, original(x), unmerged, merged)


def reference(base, part, parameters, x):
    net = Net(part).double().eval()
    module = net.net.part = copy.deepcopy(base).eval()
    for name, value in parameters.items():
        owner = module.get_submodule(name.rpartition(".")[0])
        owner.register_parameter(name.rpartition(".")[2], nn.Parameter(value))
    if part.kind in SPACE:
        module.groups = part.inputs // module.weight.shape[1]
    with torch.no_grad():
        return net(x if part.kind == "embedding" else x.double())


def apart(a, b):
    assert a.shape == b.shape
    size = max(a.abs().max().item(), b.abs().max().item())
    return ((a.double() - b.double()).abs().max() / size).item()
