"""A small base model and adapters saved on it by the installed peft; no test needs a release."""

import json
from typing import Any

MODULE = "small_nets"
NETS = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

def other():
    torch.manual_seed(7)
    return make()

def inputs():
    return (torch.linspace(-1, 1, 12).reshape(2, 6),)

def broken():
    raise RuntimeError("no weights\\nhere")

def wrong():
    return 3

class Asking(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 4)
    dummy_inputs = {"x": torch.ones(2, 6)}
    def forward(self, x):
        return {"logits": self.lin(x), "index": x.argmax(1)}

class Endless(Asking):
    def forward(self, x):
        return self.lin(x) / 0

calls = {}

def counted(name="counted", same=0):
    calls[name] = calls.get(name, 0) + 1
    net = make()
    with torch.no_grad():
        net[0].weight.mul_(max(1, calls[name] - same))
    return net

def counted_late():
    return counted("late", same=2)

UNSEEDED = torch.Generator()
KEPT = make()

def kept():
    return KEPT

def adapted():
    from peft import LoraConfig, get_peft_model
    return get_peft_model(make(), LoraConfig(target_modules=["0"], r=2))

class Drawing(nn.Sequential):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5, training=True))

class Writing(nn.Sequential):
    def forward(self, x):
        return super().forward(x.mul_(2))

def drawing():
    return Drawing(*make())

def writing():
    return Writing(*make())

class Scaled(nn.Sequential):
    def __init__(self, *layers, scale):
        super().__init__(*layers)
        self.scale = scale
    def forward(self, x):
        return super().forward(x) * self.scale

def scaled():
    return Scaled(*make(), scale=torch.rand(1, generator=UNSEEDED).item())
"""


def write_nets(folder):
    (folder / f"{MODULE}.py").write_text(NETS)
    return folder


def save_adapter(folder, configuration):
    """Save an adapter of the network of `make`, with numbers in it, by the installed peft."""
    import peft
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    model: Any = peft.get_peft_model(network, configuration)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.linspace(-0.5, 0.7, parameter.numel()).view_as(parameter))
    model.save_pretrained(str(folder))
    return folder


def save_lora(folder, **settings):
    from peft import LoraConfig

    return save_adapter(folder, LoraConfig(target_modules=["0", "2"], r=2, **settings))


def edit_configuration(folder, **fields):
    """Set fields of a saved configuration; None removes one."""
    file = folder / "adapter_config.json"
    written = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({name: one for name, one in written.items() if one is not None}))
