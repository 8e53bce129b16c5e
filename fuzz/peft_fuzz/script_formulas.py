"""What a script needs to show that a model computes another function than its method's formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from peft_fuzz.example import Example
from peft_fuzz.methods.ia3 import is_feedforward

FORMULAS: Final[dict[str, str]] = {
    "merged_by_hand": '''\
def merged_by_hand(model, original, x, new_weight):
    """Return the output of the base with the weights of the method's formula."""
    base = copy.deepcopy(original)
    weights = dict(base.named_parameters())
    for path, module in model.base_model.model.named_modules():
        if not hasattr(module, "get_delta_weight"):
            continue
        path = path.replace(".base_layer", "")
        key = f"{path}.weight" if f"{path}.weight" in weights else f"{path}.in_proj_weight"
        for name in module.active_adapters:
            weight, layer = new_weight(module, name, weights[key]), base.get_submodule(path)
            if weight.shape != weights[key].shape:
                layer.groups = 1
            weights[key] = weight
    with torch.no_grad():
        return functional_call(base, weights, (x,))''',
    "added": '''\
def added(module, name, weight):
    """Return a weight with the delta that peft states for an adapter."""
    return weight + module.get_delta_weight(name)''',
    "rotated": '''\
def rotated(module, name, weight):
    """Return R W, with the rotation that peft states for an adapter."""
    return (module.get_delta_weight(name) @ weight.flatten(1).T).T.reshape(weight.shape)''',
    "with_lora": '''\
def with_lora(module, name, weight):
    """Return W + s B A. The B of a grouped convolution is grouped, A is not."""
    if name not in module.lora_A:
        return weight + module.get_delta_weight(name)  # an embedding
    down, up = module.lora_A[name].weight, module.lora_B[name].weight
    if up.shape[1] != down.shape[0]:
        up = dense(up, down.shape[0] // up.shape[1])
    product = (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
    if getattr(module, "fan_in_fan_out", False):
        product = product.T
    if product.shape != weight.shape:
        weight = dense(weight, module.get_base_layer().groups)
    return weight + module.scaling[name] * product''',
    "with_dora": '''\
def with_dora(module, name, weight):
    """Return m (W + s B A) / ||W + s B A||, a norm for each output."""
    is_transposed = getattr(module, "fan_in_fan_out", False)
    rows = with_lora(module, name, weight)
    rows = rows.T if is_transposed else rows
    magnitude = module.lora_magnitude_vector[name]
    factor = getattr(magnitude, "weight", magnitude).reshape(-1) / rows.flatten(1).norm(dim=1)
    rows = rows * factor.reshape(-1, *(1,) * (rows.dim() - 1))
    return rows.T if is_transposed else rows''',
    "with_lokr": '''\
def with_lokr(module, name, weight):
    """Return W + alpha / r (w1 x w2), each a tensor or a product; w2 has the kernel."""
    factors = []
    for number in (1, 2):
        full = getattr(module, f"lokr_w{number}")
        if name in full:
            factors.append(full[name])
            continue
        a, b = (getattr(module, f"lokr_w{number}_{which}")[name] for which in "ab")
        core = module.lokr_t2[name] if number == 2 and name in module.lokr_t2 else None
        factors.append(a @ b if core is None else torch.einsum("ij...,ip,jq->pq...", core, a, b))
    w1, w2 = factors
    w2 = w2.reshape(w2.shape[0], -1, *weight.shape[2:])
    product = torch.einsum("ab,cd...->acbd...", w1, w2)
    return weight + module.scaling[name] * product.reshape(weight.shape)''',
    "with_vera": '''\
def with_vera(module, name, weight):
    """Return W + diag(b) B diag(d) A, with A and B cut to the layer and to the adapter's rank."""
    inner, outer = module.vera_lambda_d[name], module.vera_lambda_b[name]
    down = module.vera_A[name][: len(inner), : module.in_features]
    up = module.vera_B[name][: module.out_features, : len(inner)]
    product = outer[:, None] * up @ (inner[:, None] * down)
    return weight + (product.T if module.fan_in_fan_out else product)''',
    "multiplied": '''\
def multiplied(module, name, weight):
    """Return W + W0 o (B A), with the base's weight W0."""
    product = module.hira_B[name].flatten(1) @ module.hira_A[name].flatten(1)
    product = product.T if getattr(module, "fan_in_fan_out", False) else product
    base = module.get_base_layer().weight
    return weight + base * product.reshape(base.shape)''',
    "scaled_by_hand": '''\
def scaled_by_hand(model, original, x, feedforward):
    """Return the output of the base with what (IA)^3 multiplies: outputs, or inputs of some."""
    base = copy.deepcopy(original)

    def times(factor, value, layer):
        is_convolution = hasattr(layer, "kernel_size")
        return value * factor.reshape(-1, *(1,) * (value.dim() - 2 if is_convolution else 0))

    for path, module in model.base_model.model.named_modules():
        for name in module.active_adapters if hasattr(module, "ia3_l") else []:
            if name not in module.ia3_l:
                continue
            layer, factor = base.get_submodule(path), module.ia3_l[name].detach().flatten()
            if path in feedforward[name]:
                layer.register_forward_pre_hook(
                    lambda layer, inputs, factor=factor: (times(factor, inputs[0], layer),)
                )
            else:
                layer.register_forward_hook(
                    lambda layer, inputs, result, factor=factor: times(factor, result, layer)
                )
    return output(base, x)''',
    "dense": '''\
def dense(weight, groups):
    """Return a grouped convolution's weight as that of one without groups."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    full = weight.new_zeros(weight.shape[0], inputs * groups, *weight.shape[2:])
    for group in range(groups):
        rows, columns = (slice(group * n, (group + 1) * n) for n in (outputs, inputs))
        full[rows, columns] = weight[rows]
    return full''',
}
"""Functions by name."""

_WEIGHTS: Final[Mapping[str, str]] = {
    "dora": "with_dora",
    "hira": "multiplied",
    "lokr": "with_lokr",
    "lora": "with_lora",
    "oft": "rotated",
    "vera": "with_vera",
}
"""What computes a weight by a method's formula."""
_ADDED: Final = frozenset(
    {
        "adalora", "c3a", "deft", "delora", "frod", "gralora", "loha", "psoft", "pvera", "randlora",
        "shira", "tinylora", "unilora",
    }
)  # fmt: skip
"""Methods of which the library states what is added to a weight."""
_MOVES_MORE: Final = frozenset({"bias", "lora_bias", "modules_to_save"})
"""Settings by which an adapter changes more than weights."""


def weight_function(example: Example) -> str | None:
    """Return the function of `FORMULAS` that computes a weight with an adapter.

    None if the method is no new weight, if an adapter changes more than weights, or if its start
    changes the base (PiSSA).
    """
    name = _WEIGHTS.get(example.method, "added" if example.method in _ADDED else "")
    moves_more = changes_more(example) or any(
        isinstance(one.settings.get("init_lora_weights"), str) for one in example.adapters
    )
    embeds = any(layer.kind == "embedding" for layer in example.network.layers)
    if not name or moves_more or (embeds and name != "with_lora"):
        return None
    return name


def changes_more(example: Example) -> bool:
    """Return whether an adapter changes more than the weights of the layers that it is on."""
    return any(_MOVES_MORE & one.settings.keys() for one in example.adapters)


def feedforward_layers(example: Example) -> dict[str, list[str]]:
    """Return by adapter of (IA)^3 the layers of which it multiplies the inputs."""
    layers = [layer.name for layer in example.network.layers]
    return {
        one.name: [name for name in layers if is_feedforward(one.settings, name)]
        for one in example.adapters
    }
