"""Check what must hold of a life's model after an act."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from peft_fuzz import example as e
from peft_fuzz import oracle, owned
from peft_fuzz.bounds import FUNCTION, HALF, UNKNOWN_TERMS, apart, overflows
from peft_fuzz.checks import fail
from peft_fuzz.life import model as library
from peft_fuzz.life.life import Life
from peft_fuzz.life.plan import Plan
from peft_fuzz.life.weights import type_name

WAYS = {
    "copy": "two_ways",
    "disable": "disabled",
    "merge": "merged",
    "save_load": "loaded",
    "unmerge": "unmerged",
}
"""The check that an output's difference to the one known before belongs to, by act."""
TOO_SMALL = 1e-6


def snapshot(life: Life) -> dict[str, Tensor]:
    """Return a copy of all tensors of the model."""
    return {name: t.detach().clone() for name, t in owned.all_tensors(life.model).items()}


def check_untouched(life: Life, act: e.Act, before: Mapping[str, Tensor], plan: Plan) -> None:
    """Raise NotHeldError if an act changed a tensor that it must leave as it is.

    plan: of before the act.
    """
    if isinstance(act, (e.Convert, e.SaveLoad, e.Unload)):
        return
    owners = owned.owners(life.model)
    acted = _acted_on(act, plan)
    base_may = plan.merged or life.plan.merged or isinstance(act, e.Unmerge)
    for name, tensor in owned.all_tensors(life.model).items():
        if name not in before or _same(tensor, before[name]):
            continue
        owner = owners.get(id(tensor))
        if owner in acted or (base_may and life.method.exchanges):
            continue
        if owner is None:
            trains = isinstance(act, (e.Fill, e.Train)) and plan.has_bias
            if base_may or (trains and name.endswith("bias")):
                continue
            if isinstance(act, e.Add) and life.plan.settings != plan.settings:
                continue
            message = f"{name} of the base has changed, which must stay as it is."
            fail("frozen", message)
        message = f"{name} of adapter {owner} has changed, which this act is not about."
        check = "leak" if isinstance(act, (e.Fill, e.Train)) else "frozen"
        fail(check, message)


def check_trained(life: Life, act: e.Act, before: Mapping[str, Tensor], plan: Plan) -> None:
    """Raise NotHeldError if training left an adapter that trains unchanged."""
    if not isinstance(act, e.Train) or plan.trainable is None:
        return
    if life.draws() or _all_empty(life):
        return  # dropout may have left out all that trains
    owners = owned.owners(life.model)
    moved = {
        owners.get(id(tensor))
        for name, tensor in owned.all_tensors(life.model).items()
        if name in before and not _same(tensor, before[name])
    }
    for name in life.optimized.intersection(plan.active):
        if name in plan.trainable and name not in moved and _weights_matter(life, name):
            message = f"After {act.steps} training steps no parameter of adapter {name} has moved."
            fail("trained", message)


def _weights_matter(life: Life, adapter: str) -> bool:
    """Return whether other weights of an adapter's layers would change the output.

    They do not where a kernel meets padding alone: then there is no gradient, either.
    """
    layers = life.plan.targets(adapter) or frozenset()
    own = dict(life.oracle.base.named_parameters())
    other = {
        name: value.detach() * 1.5
        for name, value in own.items()
        if name.rpartition(".")[0] in layers and name.endswith("weight")
    }
    base = life.oracle.output()
    return apart(life.oracle.output(other), base) > TOO_SMALL * float(base.abs().max())


def check_trainable(life: Life) -> None:
    """Raise NotHeldError if other parameters train than those of the trainable adapters."""
    plan, owners = life.plan, owned.owners(life.model)
    if plan.trainable is None or plan.has_bias or (plan.merged and life.method.exchanges):
        return
    expected = plan.trainable if plan.enabled else frozenset()
    training = set()
    for name, tensor in life.model.named_parameters():
        if not tensor.requires_grad:
            continue
        owner = owners.get(id(tensor))
        if owner is None and not _shared(life, name):
            fail("frozen", f"{name} of the base trains, which must be frozen.")
        if owner is not None and owner not in expected:
            message = f"{name} of adapter {owner} trains, which must be frozen."
            fail("frozen", message)
        training.add(owner)
    if not plan.merged:
        for name in sorted(expected):
            _check_all_train(life, name, training)


def _check_all_train(life: Life, adapter: str, training: Collection[str | None]) -> None:
    """Raise NotHeldError if a parameter that the method trains, or one of a copy, is frozen."""
    if adapter not in training and None not in training and not _is_empty(life, adapter):
        fail("frozen", f"No parameter of adapter {adapter} trains, which must.")
    for path, module in owned.holders(life.model):
        copied = owned.is_copy_holder(module)
        for key, tensor in owned.held(module, adapter).items():
            mine = copied or key.startswith(life.method.trains)
            if mine and isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
                message = f"{path}.{key} of adapter {adapter} is frozen, which must train."
                fail("frozen", message)


def _is_empty(life: Life, adapter: str) -> bool:
    """Return whether an adapter is on layers and has no parameter, as GLoRA's may.

    All that GLoRA adds to a layer without a bias can be left out by `config_A_B="none"`.
    """
    layers = [module for _, module in owned.holders(life.model)]
    there = [module for module in layers if adapter in owned.adapters_of(module)]
    tensors = (tensor for module in there for tensor in owned.held(module, adapter).values())
    return bool(there) and not any(isinstance(tensor, nn.Parameter) for tensor in tensors)


def check_adapter_type(life: Life, act: e.Act | None) -> None:
    """Raise NotHeldError if an adapter that was just put in is in half precision unasked."""
    if not life.example.autocast or not library.casts_adapters(life.model, act):
        return
    names = [act.adapter] if isinstance(act, e.Add) else [*life.plan.settings]
    names = [act.name] if isinstance(act, e.LoadBeside) else names
    for path, module in owned.holders(life.model):
        if owned.is_copy_holder(module):
            continue
        for name in names:
            for key, tensor in owned.held(module, name).items():
                if key.startswith(life.method.trains) and tensor.dtype in HALF:
                    message = f"{path}.{key} is {type_name(tensor.dtype)}, not float32."
                    fail("dtype", message)


def check_output(life: Life, act: e.Act | None) -> None:
    """Raise NotHeldError if the model computes another function than it must."""
    output = life.observe()
    effect = life.plan.effect()
    _check_type(life, output)
    if effect is None or (life.plan.merged and life.shares_a_module):
        return
    if effect == ():
        _compare(life, output, life.oracle.output(), None, "disabled", "the base")
        return
    parameters = oracle.parameters(life.oracle, life.model, life.plan, life.method, effect)
    known = life.known.get(effect)
    if known is not None:
        kind = "wrap" if act is None else str(act.__struct_config__.tag)
        _compare(life, output, known, parameters, WAYS.get(kind, "two_ways"), "before")
    elif act is None and life.method.starts_as_identity(life.example.adapters[0]):
        _compare(life, output, life.start, parameters, "identity", "the base")
    if isinstance(act, e.Fill):
        _check_effect(life, output, parameters)
    if parameters is not None:
        expected = life.oracle.output(parameters)
        _compare(life, output, expected, parameters, "function", "the formula")
    life.known.setdefault(effect, output)


def _check_effect(life: Life, output: Tensor, parameters: Mapping[str, Tensor] | None) -> None:
    """Raise NotHeldError if filled adapters change nothing, though the formula or layer would.

    An output may depend on no weight: a small map's padding can be all that a kernel meets.
    """
    if _all_empty(life):
        return
    base = life.oracle.output()
    if parameters is None:
        own = dict(life.oracle.base.named_parameters())
        layers = {layer for name in life.plan.active for layer in life.plan.targets(name) or ()}
        parameters = {
            name: value.detach() * 1.5
            for name, value in own.items()
            if name.rpartition(".")[0] in layers and name.endswith("weight")
        }
    least = TOO_SMALL * float(base.abs().max())
    if apart(life.oracle.output(parameters), base) <= 100 * least:
        return
    if apart(output, base) <= least:
        names = ", ".join(life.plan.active)
        message = f"All parameters of {names} have changed, but the output is the base's."
        fail("no_op", message)


def _all_empty(life: Life) -> bool:
    """Return whether the active adapters have parameters, and none holds a number."""
    sizes = [
        tensor.numel()
        for _, module in owned.holders(life.model)
        for name in life.plan.active
        for tensor in owned.held(module, name).values()
        if isinstance(tensor, nn.Parameter)
    ]
    return bool(sizes) and not any(sizes)


def _check_type(life: Life, output: Tensor) -> None:
    wanted = next(life.reference.parameters()).dtype
    if output.dtype != wanted:
        message = f"The output is {type_name(output.dtype)}; the base's is {type_name(wanted)}."
        fail("dtype", message)


def _compare(  # noqa: PLR0913, PLR0917
    life: Life,
    output: Tensor,
    expected: Tensor,
    parameters: Mapping[str, Tensor] | None,
    check: str,
    what: str,
) -> None:
    """Raise NotHeldError if two outputs are further apart than rounding allows."""
    distance = apart(output, expected)
    relative = FUNCTION[output.dtype] * (1 + life.plan.unmerged)
    if parameters is None and life.plan.unmerged and output.dtype not in HALF:
        relative *= UNKNOWN_TERMS
    largest = float(expected.abs().max())
    if distance <= relative * largest:
        return
    size = max(largest, life.oracle.magnitude(parameters))
    bound = relative * size
    if not distance <= bound and not overflows(size, output.dtype):
        if output.shape != expected.shape:
            message = f"The output is {tuple(output.shape)}, but {tuple(expected.shape)} of {what}."
        else:
            message = (
                f"The output differs from that of {what} by {distance:.1e} of {largest:.1e}; "
                f"rounding allows {bound:.1e}."
            )
        fail(check, message)


def _acted_on(act: e.Act, plan: Plan) -> frozenset[str]:
    match act:
        case e.Fill() | e.Train():
            return frozenset(plan.active) & (plan.trainable or frozenset())
        case e.HotSwap(adapter=name):
            return frozenset({name})
    return frozenset()


def _same(tensor: Tensor, before: Tensor) -> bool:
    return (
        tensor.shape == before.shape
        and tensor.dtype == before.dtype
        and bool(torch.equal(tensor, before))
    )


def _shared(life: Life, name: str) -> bool:
    """Return whether a parameter is the tuner's own, shared by all adapters (a vector bank)."""
    base: set[str] = {key for key, _ in life.origin.named_parameters()}
    bare = name.removeprefix("base_model.model.").replace("base_layer.", "")
    return bare.replace("original_module.", "") not in base
