"""The parts of a finding's script: its network, its settings, and functions that it may need."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from peft_fuzz.example import Layer, Network
from peft_fuzz.methods import Method
from peft_fuzz.script_formulas import FORMULAS

IMPORTS: Final[tuple[dict[str, str], dict[str, str]]] = (
    {"copy.": "import copy", "tempfile.": "import tempfile"},
    {
        "torch.": "import torch",
        "nn.": "from torch import nn",
        "BaseTunerLayer": "from peft.tuners.tuners_utils import BaseTunerLayer",
        "functional_call(": "from torch.func import functional_call",
        "FlopCounterMode": "from torch.utils.flop_counter import FlopCounterMode",
        "Conv1D(": "from transformers.pytorch_utils import Conv1D",
        "safe_open(": "from safetensors import safe_open",
        "hotswap_adapter(": "from peft.utils.hotswap import hotswap_adapter",
        "prepare_model_for_compiled_hotswap(": (
            "from peft.utils.hotswap import prepare_model_for_compiled_hotswap"
        ),
    },
)
"""The import that a script needs for a word in it: the standard library, and others."""

HELPERS: Final[dict[str, str]] = {
    "output": '''\
def output(model, x, **keywords):
    """Return what the model computes in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        result = model(x, **keywords)
    for module, training in modes:
        module.training = training
    return result''',
    "without_adapters": '''\
def without_adapters(model):
    """Return a copy in which no adapter acts; trained copies of whole modules do."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
    return copied''',
    "check_copies": '''\
def check_copies(model):
    """Exit with 1 if an adapter has been put into a trained copy of a layer."""
    print("expected: no adapter in the copies")
    for path, module in model.named_modules():
        if ".modules_to_save." in path and isinstance(module, BaseTunerLayer):
            print("came: an adapter on", path)
            raise SystemExit(1)''',
    "fill": '''\
def fill(model, seed, adapter=None):
    """Add seeded noise to what trains, or to an adapter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            chosen = f".{adapter}" in name if adapter else parameter.requires_grad
            if chosen and parameter.is_floating_point():
                noise = 0.3 * torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter.dtype))''',
    "train": '''\
def train(model, x, optimizer, steps, seed):
    """Take training steps whose largest change is 0.05."""
    for _ in range(steps):
        optimizer.zero_grad()
        result = model(x).float()
        generator = torch.Generator().manual_seed(seed)
        (result * torch.randn(result.shape, generator=generator)).sum().backward()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.abs().max() > 0:
                    parameter.grad.mul_(0.05 / parameter.grad.abs().max())
        optimizer.step()''',
    "compare": '''\
def compare(expected, before, after):
    """Print two outputs' difference; exit with 1 if it is more than rounding."""
    print("expected:", expected)
    if before.shape != after.shape:
        print("came: shape", tuple(after.shape), "instead of", tuple(before.shape))
        raise SystemExit(1)
    largest = before.double().abs().max().item()
    difference = (before.double() - after.double()).abs().max().item()
    print(f"came: a difference of {difference:.1e}; the largest value is {largest:.1e}")
    bound = 1e-4 if after.dtype == torch.float32 else 5e-2
    if not difference <= bound * largest:
        raise SystemExit(1)''',
    "compare_unequal": '''\
def compare_unequal(before, after):
    """Exit with 1 if two outputs are equal."""
    print("expected: an adapter that changed computes something else than the base")
    if torch.allclose(before, after.to(before.dtype), rtol=1e-6, atol=1e-6):
        print("came: the base's output")
        raise SystemExit(1)''',
    "base_tensors": '''\
def base_tensors(model, original):
    """Yield name, tensor now and original tensor of each base weight."""
    own = dict(original.named_parameters())
    for name, tensor in model.named_parameters(remove_duplicate=False):
        plain = name.replace("base_model.model.", "").replace("base_layer.", "")
        if plain in own:
            yield plain, tensor.detach(), own[plain].detach()''',
    "compare_weights": '''\
def compare_weights(model, original):
    """Exit with 1 if a base weight is not what it was."""
    print("expected: the base weights are as before")
    for name, now, before in base_tensors(model, original):
        bound = 1e-4 if before.dtype == torch.float32 else 5e-2
        if now.shape != before.shape:
            print(f"came: {name} has shape {tuple(now.shape)}, not {tuple(before.shape)}")
            raise SystemExit(1)
        difference = (now - before).abs().max().item()
        if not difference <= bound * before.abs().max().item():
            print(f"came: {name} differs by {difference:.1e}")
            raise SystemExit(1)''',
    "compare_types": '''\
def compare_types(model, original, x):
    """Exit with 1 if an output or a base weight has another dtype."""
    expected, came = output(original, x).dtype, output(model, x).dtype
    print("expected:", expected)
    print("output:", came)
    wrong = came != expected
    for name, now, before in base_tensors(model, original):
        print(f"{name}: {now.dtype}")
        wrong |= now.dtype != before.dtype
    if wrong:
        raise SystemExit(1)''',
    "check_layout": '''\
def check_layout(model, original):
    """Exit with 1 if a weight is not contiguous any more, so that safetensors cannot save it."""
    print("expected: contiguous weights")
    for name, now, before in base_tensors(model, original):
        if before.is_contiguous() and not now.is_contiguous():
            print(f"came: {name} has strides {now.stride()}")
            raise SystemExit(1)''',
    "snapshot": '''\
def snapshot(model):
    """Return a copy of all tensors."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}''',
    "changes": '''\
def changes(model, before):
    """Return the names of the tensors that the last act changed."""
    after = model.state_dict()
    both = [name for name in after if name in before]
    return [name for name in both if not torch.equal(before[name], after[name])]''',
    "check_changes": '''\
def check_changes(model, before, adapters):
    """Exit with 1 if a tensor changed that is of none of these adapters."""
    changed = changes(model, before)
    print("expected: only tensors of", adapters, "change")
    print("changed:", *changed)
    if not all(any(f".{one}" in name for one in adapters) for name in changed):
        raise SystemExit(1)''',
    "check_trained": '''\
def check_trained(model, before, adapters):
    """Exit with 1 if training changed nothing of an adapter."""
    changed = changes(model, before)
    print("expected: each of", adapters, "changes")
    print("changed:", *changed)
    if not all(any(f".{one}" in name for name in changed) for one in adapters):
        raise SystemExit(1)''',
    "check_trainable": '''\
def check_trainable(model, adapters):
    """Exit with 1 if other parameters train than those of these adapters."""
    trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    print("expected: parameters train that are of", adapters, "and no others")
    print("trains:", *trains)
    wrong = [name for name in trains if not any(f".{one}" in name for one in adapters)]
    lacking = [one for one in adapters if not any(f".{one}" in name for name in trains)]
    if wrong or lacking:
        print("wrong:", *wrong, *lacking)
        raise SystemExit(1)''',
    "check_gradients": '''\
def check_gradients(model, x, step=0.01):
    """Exit with 1 if a gradient is not what differences of the output say."""
    print("expected: gradients as by central differences")
    torch.manual_seed(4)
    probe = torch.randn(output(model, x).shape)
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    loss = (model(x) * probe).sum()
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    for (name, parameter), gradient in zip(trained.items(), gradients):
        flat, expected = parameter.detach().view(-1), torch.zeros(parameter.numel())
        for index in range(parameter.numel()):
            for sign in (1, -1):
                flat[index] += sign * step
                part = sign * (output(model, x).double() * probe).sum() / (2 * step)
                expected[index] += part
                flat[index] -= sign * step
        came = torch.zeros(parameter.numel()) if gradient is None else gradient.reshape(-1)
        apart, largest = (came - expected).abs().max(), expected.abs().max()
        if apart > 0.05 * largest + 0.005:
            print(f"came: {name} is off by {apart:.1e}, of {largest:.1e}")
            raise SystemExit(1)''',
    "spoil": '''\
def spoil(model):
    """Put NaN into the last parameter of the first layer's adapter."""
    found = [
        parameter
        for module in model.modules()
        if hasattr(module, "base_layer")
        for name, parameter in module.named_parameters()
        if "base_layer" not in name
    ]
    with torch.no_grad():
        found[-1].fill_(float("nan"))''',
    "one_by_one": '''\
def one_by_one(model, x, names):
    """Return the output of each item by its adapter alone."""
    outputs, active = [], model.active_adapters
    for index, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                outputs.append(output(model, x)[index : index + 1])
        else:
            model.set_adapter(name)
            outputs.append(output(model, x)[index : index + 1])
    model.base_model.set_adapter(active)
    return torch.cat(outputs)''',
    **FORMULAS,
    "leftovers": '''\
def leftovers(model, original):
    """Exit with 1 if something of peft is left on the base."""
    print("expected: the base without anything of peft")
    keys = set(model.state_dict()) ^ set(original.state_dict())
    attributes = [name for name in ("peft_config",) if hasattr(model, name)]
    if keys or attributes:
        print("came:", *sorted(keys), *attributes)
        raise SystemExit(1)''',
    "leftovers_of": '''\
def leftovers_of(model, adapter):
    """Exit with 1 if something of a deleted adapter is left."""
    print("expected: nothing of the deleted adapter", adapter)
    holders = (dict, list, nn.ModuleDict, nn.ParameterDict)
    for path, module in model.named_modules():
        for name, value in {**vars(module), **module._modules}.items():
            if isinstance(value, holders) and not name.startswith("_") and adapter in value:
                print(f"came: {path}.{name} has it")
                raise SystemExit(1)''',
    "check_saved": '''\
def check_saved(folder, key, adapter, other):
    """Exit with 1 if an adapter's file holds a tensor of another adapter."""
    print(f"expected: {key} of {other} is not in the file of {adapter}")
    with safe_open(f"{folder}/adapter_model.safetensors", "pt") as file:
        saved = sorted(file.keys())
    print("saved:", *saved)
    # The name of the file's adapter may have been taken out of the other's key.
    forms = {key, key.replace(f".{adapter}", ""), key.replace(adapter, "")}
    if forms & set(saved):
        raise SystemExit(1)''',
    "check_flops": '''\
def check_flops(original, model, x, allowed):
    """Exit with 1 if a forward pass needs more FLOPs than the base and the formula."""
    needed = []
    for one in (original, model):
        with FlopCounterMode(display=False) as counter:
            output(one, x)
        needed.append(counter.get_total_flops())
    print(f"expected: at most {allowed:,} FLOPs more than the {needed[0]:,} of the base")
    print(f"came: {needed[1] - needed[0]:,} more")
    if needed[1] > needed[0] + allowed:
        raise SystemExit(1)''',
}
"""Functions by name; a script has those that it calls."""

_CLASSES: Final = {"conv1d": "nn.Conv1d", "conv2d": "nn.Conv2d", "conv3d": "nn.Conv3d"}


def settings_code(method: Method, settings: Mapping[str, Any]) -> str:
    """Return the configuration of an adapter as code."""
    values = ", ".join(f"{name}={value!r}" for name, value in {**method.fixed, **settings}.items())
    return f"{method.config}({values})"


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
        if layer.kind != "attention":
            yield f"x = {place}(x)"
        elif layer.by_keyword:
            yield f"x = {place}(query=x, key=x, value=x, need_weights=False)[0]"
        else:
            yield f"x = {place}(x, x, x, need_weights=False)[0]"
    yield "return x"
