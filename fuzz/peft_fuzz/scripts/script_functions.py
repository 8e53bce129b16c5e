"""Functions of which scripts of findings are made: each script has those that it calls.

They are as a script has them: without types, and they print what they see. What the oracle computes
by, too, is imported.
"""

import copy

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from peft_fuzz.methods.lora import low_rank_product, rescaled
from peft_fuzz.methods.lycoris import core_product, kronecker
from peft_fuzz.methods.method import dense


def output(model, x):
    """Return what the model computes in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        result = model(x)
    for module, training in modes:
        module.training = training
    return result


def without_adapters(model):
    """Return a copy in which no adapter acts; trained copies of whole modules do."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
    return copied


def check_copies(model):
    """Exit with 1 if an adapter has been put into a trained copy of a layer."""
    print("expected: no adapter in the copies")
    for path, module in model.named_modules():
        if ".modules_to_save." in path and isinstance(module, BaseTunerLayer):
            print("came: an adapter on", path)
            raise SystemExit(1)


def fill(model, seed, adapter=None):
    """Add seeded noise to what trains, or to an adapter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            chosen = f".{adapter}" in name if adapter else parameter.requires_grad
            if chosen and parameter.is_floating_point():
                noise = 0.3 * torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter.dtype))


def train(model, x, optimizer, seed):
    """Take a training step whose largest change is 0.05."""
    optimizer.zero_grad()
    result = model(x).float()
    generator = torch.Generator().manual_seed(seed)
    (result * torch.randn(result.shape, generator=generator)).sum().backward()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.abs().max() > 0:
                parameter.grad.mul_(0.05 / parameter.grad.abs().max())
    optimizer.step()


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
        raise SystemExit(1)


def compare_unequal(before, after):
    """Exit with 1 if two outputs are equal."""
    print("expected: an adapter that changed computes something else than the base")
    if torch.allclose(before, after.to(before.dtype), rtol=1e-6, atol=1e-6):
        print("came: the base's output")
        raise SystemExit(1)


def base_tensors(model, original):
    """Yield name, tensor now and original tensor of each base weight."""
    own = dict(original.named_parameters())
    for name, tensor in model.named_parameters(remove_duplicate=False):
        plain = name.replace("base_model.model.", "").replace("base_layer.", "")
        if plain in own:
            yield plain, tensor.detach(), own[plain].detach()


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
            raise SystemExit(1)


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
        raise SystemExit(1)


def check_layout(model, original):
    """Exit with 1 if a weight is not contiguous any more, so that safetensors cannot save it."""
    print("expected: contiguous weights")
    for name, now, before in base_tensors(model, original):
        if before.is_contiguous() and not now.is_contiguous():
            print(f"came: {name} has strides {now.stride()}")
            raise SystemExit(1)


def snapshot(model):
    """Return a copy of all tensors."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changes(model, before):
    """Return the names of the tensors that the last act changed."""
    after = model.state_dict()
    both = [name for name in after if name in before]
    return [name for name in both if not torch.equal(before[name], after[name])]


def check_changes(model, before, adapters):
    """Exit with 1 if a tensor changed that is of none of these adapters."""
    changed = changes(model, before)
    print("expected: only tensors of", adapters, "change")
    print("changed:", *changed)
    if not all(any(f".{one}" in name for one in adapters) for name in changed):
        raise SystemExit(1)


def check_trained(model, before, adapters):
    """Exit with 1 if training changed nothing of an adapter."""
    changed = changes(model, before)
    print("expected: each of", adapters, "changes")
    print("changed:", *changed)
    if not all(any(f".{one}" in name for name in changed) for one in adapters):
        raise SystemExit(1)


def check_trainable(model, adapters):
    """Exit with 1 if other parameters train than those of these adapters."""
    trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    print("expected: parameters train that are of", adapters, "and no others")
    print("trains:", *trains)
    wrong = [name for name in trains if not any(f".{one}" in name for one in adapters)]
    lacking = [one for one in adapters if not any(f".{one}" in name for name in trains)]
    if wrong or lacking:
        print("wrong:", *wrong, *lacking)
        raise SystemExit(1)


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
            raise SystemExit(1)


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
        found[-1].fill_(float("nan"))


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
        return functional_call(base, weights, (x,))


def added(module, name, weight):
    """Return a weight with the delta that peft states for an adapter."""
    return weight + module.get_delta_weight(name)


def rotated(module, name, weight):
    """Return R W, with the rotation that peft states for an adapter."""
    return (module.get_delta_weight(name) @ weight.flatten(1).T).T.reshape(weight.shape)


def with_lora(module, name, weight):
    """Return W + s B A."""
    if name not in module.lora_A:
        return weight + module.get_delta_weight(name)  # an embedding
    down, up = module.lora_A[name].weight, module.lora_B[name].weight
    groups = getattr(module.get_base_layer(), "groups", 1)
    product = low_rank_product(down, up, groups)
    if getattr(module, "fan_in_fan_out", False):
        product = product.T
    if product.shape != weight.shape:
        weight = dense(weight, groups)
    return weight + module.scaling[name] * product


def with_dora(module, name, weight):
    """Return the weight with LoRA, and with the norm that DoRA trains for each output."""
    is_transposed = getattr(module, "fan_in_fan_out", False)
    rows = with_lora(module, name, weight)
    rows = rows.T if is_transposed else rows
    magnitude = module.lora_magnitude_vector[name]
    rows = rescaled(rows, torch.zeros_like(rows), getattr(magnitude, "weight", magnitude))
    return rows.T if is_transposed else rows


def with_lokr(module, name, weight):
    """Return W + alpha / r (w1 x w2), each a tensor or a product; w2 has the kernel."""
    factors = []
    for number in (1, 2):
        full = getattr(module, f"lokr_w{number}")
        if name in full:
            factors.append(full[name])
            continue
        a, b = (getattr(module, f"lokr_w{number}_{which}")[name] for which in "ab")
        has_core = number == 2 and name in module.lokr_t2
        factors.append(core_product(module.lokr_t2[name], a, b) if has_core else a @ b)
    product = kronecker(factors, weight.shape[2:])
    return weight + module.scaling[name] * product.reshape(weight.shape)


def with_vera(module, name, weight):
    """Return W + diag(b) B diag(d) A, with A and B cut to the layer and to the adapter's rank."""
    inner, outer = module.vera_lambda_d[name], module.vera_lambda_b[name]
    down = module.vera_A[name][: len(inner), : module.in_features]
    up = module.vera_B[name][: module.out_features, : len(inner)]
    product = outer[:, None] * up @ (inner[:, None] * down)
    return weight + (product.T if module.fan_in_fan_out else product)


def multiplied(module, name, weight):
    """Return W + W0 o (B A), with the base's weight W0."""
    product = module.hira_B[name].flatten(1) @ module.hira_A[name].flatten(1)
    product = product.T if getattr(module, "fan_in_fan_out", False) else product
    base = module.get_base_layer().weight
    return weight + base * product.reshape(base.shape)


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
                    lambda layer, _inputs, result, factor=factor: times(factor, result, layer)
                )
    return output(base, x)


def leftovers(model, original):
    """Exit with 1 if something of peft is left on the base."""
    print("expected: the base without anything of peft")
    keys = set(model.state_dict()) ^ set(original.state_dict())
    attributes = [name for name in ("peft_config",) if hasattr(model, name)]
    if keys or attributes:
        print("came:", *sorted(keys), *attributes)
        raise SystemExit(1)


def leftovers_of(model, adapter):
    """Exit with 1 if something of a deleted adapter is left."""
    print("expected: nothing of the deleted adapter", adapter)
    holders = (dict, list, nn.ModuleDict, nn.ParameterDict)
    for path, module in model.named_modules():
        for name, value in {**vars(module), **module._modules}.items():
            if isinstance(value, holders) and not name.startswith("_") and adapter in value:
                print(f"came: {path}.{name} has it")
                raise SystemExit(1)


def check_saved(folder, key, adapter, other):
    """Exit with 1 if an adapter's file holds a tensor of another adapter."""
    print(f"expected: {key} of {other} is not in the file of {adapter}")
    with safe_open(f"{folder}/adapter_model.safetensors", "pt") as file:
        saved = sorted(file.keys())
    print("saved:", *saved)
    # The name of the file's adapter may have been taken out of the other's key.
    forms = {key, key.replace(f".{adapter}", ""), key.replace(adapter, "")}
    if forms & set(saved):
        raise SystemExit(1)


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
        raise SystemExit(1)
