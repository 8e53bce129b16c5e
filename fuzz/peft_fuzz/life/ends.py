"""Acts with checks of their own: delete, unload, mixed batches, merges that must be refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from peft_fuzz import example as e
from peft_fuzz import oracle, owned
from peft_fuzz.bounds import FUNCTION, apart, overflows
from peft_fuzz.checks import fail
from peft_fuzz.life.life import Life
from peft_fuzz.life.plan import Plan


def check_delete(life: Life, act: e.Delete, plan: Plan) -> None:
    """Raise NotHeldError if a deleted adapter has left something; activate what the plan says.

    plan: of before the act.
    """
    name = act.adapter
    if name in life.model.peft_config:
        fail("leftover", f"The configuration of the deleted {name} is still there.")
    for path, module in owned.holders(life.model):
        for attribute, value in {**vars(module), **module._modules}.items():  # noqa: SLF001
            if attribute in {"_modules", "_parameters", "_buffers"}:
                continue
            if isinstance(value, str) and "adapter" not in attribute:
                continue  # such as the name of a layer, which may be the adapter's, too
            if name in _names(value):
                message = f"{attribute} of {path} still has the deleted adapter {name}."
                fail("leftover", message)
    if name in plan.active and len(plan.active) == 1 and life.plan.active:
        life.model.set_adapter(life.plan.active[0])


def check_within(life: Life) -> None:
    """Raise NotHeldError if the model differs from the base while adapters are disabled."""
    with life.model.disable_adapter():
        output = life.observe()
    _compare(life, output, life.oracle.output(), "disabled", "the base")


def check_mixed(life: Life, act: e.Mixed) -> None:
    """Raise NotHeldError if an item of a mixed batch differs from its adapter's own output."""
    output = life.observe(adapter_names=[*act.adapters])
    for item, name in enumerate(act.adapters):
        alone = _alone(life, name)
        if alone is not None:
            what = f"adapter {name} alone"
            _compare(life, output[item : item + 1], alone[item : item + 1], "two_ways", what)


def check_unload(life: Life, act: e.Unload) -> None:
    """Raise NotHeldError if an unloaded model has another function or something left of peft."""
    effect = life.plan.active if act.merge else ()
    expected = life.known.get(effect) if effect else _copies(life, life.plan.active)
    if act.merge:
        keywords = {"safe_merge": True} if act.safe else {}
        base = life.model.merge_and_unload(**keywords)
    else:
        base = life.model.unload()
    for path, module in base.named_modules():
        if owned.is_tuner_layer(module) or owned.is_copy_holder(module):
            fail("leftover", f"{path} is still adapted after unloading.")
    if hasattr(base, "peft_config"):
        fail("leftover", "The unloaded base still has the attribute peft_config.")
    own = life.origin.state_dict()
    more = sorted({*base.state_dict()} ^ {*own})
    if more:
        fail("leftover", f"Unloaded and original base differ in the key {more[0]}.")
    for name, tensor in base.state_dict().items():
        if tensor.dtype != own[name].dtype:
            fail("dtype", f"{name} is {tensor.dtype} after unloading.")
        if own[name].is_contiguous() and not tensor.is_contiguous():
            fail("layout", f"{name} is not contiguous, so it cannot be saved.")
    with torch.no_grad():
        output = base.eval()(life.x)
    if expected is not None and not (act.merge and life.shares_a_module):
        _compare(life, output, expected, "merged" if act.merge else "leftover", "before")


def merge_broken(life: Life, act: e.Merge) -> None:
    """Merge safely with a NaN in an adapter; raise NotHeldError unless that is refused cleanly."""
    adapters = life.plan.active if act.adapters is None else act.adapters
    found = _first_layer(life, adapters)
    if found is None:
        return
    path, layer, tensor = found
    base = owned.base_layer(layer)
    before = {name: value.detach().clone() for name, value in base.named_parameters()}
    good = tensor.detach().clone()
    with torch.no_grad():
        tensor.fill_(float("nan"))
    try:
        life.model.merge_adapter([*adapters], safe_merge=True)
    except ValueError:
        for name, value in base.named_parameters():
            if not torch.equal(value, before[name]):
                message = f"The safe merge has refused, but {path}.{name} has changed."
                fail("refused_safe_merge", message)
    else:
        if any(bool(value.isnan().any()) for value in base.parameters()):
            message = f"The safe merge has put NaN into {path} and raised nothing."
            fail("refused_safe_merge", message)
    life.model.unmerge_adapter()
    with torch.no_grad():
        tensor.copy_(good)
        for name, value in base.named_parameters():
            value.copy_(before[name])


def _first_layer(life: Life, adapters: Sequence[str]) -> tuple[str, nn.Module, Tensor] | None:
    """Return the first adapted layer with a parameter of its own, and the last of these.

    What several layers hold is left out: a layer may hold what only another one computes with.
    """
    layers = [module for _, module in owned.holders(life.model) if owned.is_tuner_layer(module)]
    holders = Counter(
        id(tensor)
        for module in layers
        for adapter in adapters
        for tensor in owned.held(module, adapter).values()
    )
    for path, module in owned.holders(life.model):
        if not owned.is_tuner_layer(module):
            continue
        for adapter in adapters:
            tensors = [
                tensor
                for tensor in owned.held(module, adapter).values()
                if tensor.is_floating_point()
                and isinstance(tensor, nn.Parameter)
                and holders[id(tensor)] == 1
            ]
            if tensors:
                return path, module, tensors[-1]
    return None


def _names(value: object) -> set[object]:
    if isinstance(value, (str, Tensor)):
        return {value} if isinstance(value, str) else set()
    if isinstance(value, (Mapping, list, set, tuple, nn.ModuleDict, nn.ParameterDict)):
        return {each for each in value if isinstance(each, str)}
    return set()


def _copies(life: Life, effect: Sequence[str]) -> Tensor | None:
    """Return the output of the base with the active adapters' copies of whole layers.

    None with copies beside a shared module: whether each use of it has the copy is not documented.
    """
    found: dict[str, Tensor] = {}
    for layer in life.example.network.layers:
        module = life.model.get_base_model().get_submodule(layer.name)
        if owned.is_copy_holder(module):
            found |= oracle.copied(module, layer.name, effect)
    return None if found and life.shares_a_module else life.oracle.output(found)


def _alone(life: Life, name: str) -> Tensor | None:
    if name == "__base__":
        return life.oracle.output()
    parameters = oracle.parameters(life.oracle, life.model, life.plan, life.method, (name,))
    return life.known.get((name,)) if parameters is None else life.oracle.output(parameters)


def _compare(life: Life, output: Tensor, expected: Tensor, check: str, what: str) -> None:
    size = life.oracle.magnitude()
    bound = FUNCTION[output.dtype] * (1 + life.plan.unmerged) * size
    bound = max(bound, FUNCTION[output.dtype] * 4 * float(expected.abs().max()))
    distance = apart(output, expected)
    if not distance <= bound and not overflows(size, output.dtype):
        message = (
            f"The output differs from that of {what} by {distance:.1e} of "
            f"{float(expected.abs().max()):.1e}; rounding allows {bound:.1e}."
        )
        fail(check, message)
