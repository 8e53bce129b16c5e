"""Check what must hold of a life's model after an act."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from peft_fuzz.oracle import owned
from peft_fuzz.oracle.bounds import HALF, WEIGHT, apart
from peft_fuzz.oracle.checks import fail
from peft_fuzz.oracle.expected import check_copies
from peft_fuzz.oracle.gradients import check_gradients
from peft_fuzz.oracle.life import TOO_SMALL, Life
from peft_fuzz.oracle.plan import Change, Plan


def check_all(life: Life, change: Change) -> None:
    """Raise NotHeldError if the model is not what its plan says."""
    if life.plan.ended:
        return
    if change.is_called_first:
        life.observe()
    check_copies(life.model, life.on.network)
    check_weights(life)
    check_trainable(life)
    check_adapter_type(life, change)
    check_output(life, change)
    if change.fills:
        check_gradients(life)


def check_untouched(life: Life, change: Change, before: Mapping[str, Tensor], plan: Plan) -> None:
    """Raise NotHeldError if an act changed a tensor that it must leave as it is."""
    if change.is_another_model:
        return
    owners = life.owners()
    base_may = change.base or bool(plan.merged or life.plan.merged)
    for name, tensor in life.changed_since(before):
        owner = owners.get(id(tensor))
        if owner in change.adapters or (base_may and life.method.exchanges):
            continue
        if owner is None:
            is_bias = change.trains and plan.has_bias and name.endswith("bias")
            if base_may or is_bias:
                continue
            fail("frozen", f"{name} of the base has changed, which must stay as it is.")
        message = f"{name} of adapter {owner} has changed, which this act is not about."
        fail("leak" if change.trains else "frozen", message)


def check_weights(life: Life) -> None:
    """Raise NotHeldError if base weights have another type, layout, or (unmerged) value."""
    adopted = False
    for path, module in life.base_layers():
        mine = dict(life.reference.get_submodule(path).named_parameters())
        for name, tensor in module.named_parameters():
            if name not in mine:
                continue
            where, wanted = f"{path}.{name}", mine[name].detach()
            _check_form(where, tensor.detach(), wanted)
            if life.plan.merged:
                size = float(tensor.detach().abs().max())
                life.merged_size[where] = max(size, life.merged_size.get(where, 0.0))
            elif life.plan.unmerged and _check_value(life, where, tensor.detach(), wanted):
                life.replaced.setdefault(where, wanted.clone())
                with torch.no_grad():
                    mine[name].copy_(tensor)
                adopted = True
    if adopted:
        life.renew_oracle()


def _check_form(where: str, tensor: Tensor, wanted: Tensor) -> None:
    if tensor.dtype != wanted.dtype:
        fail("dtype", f"{where} is {type_name(tensor.dtype)}, not {type_name(wanted.dtype)}.")
    if tensor.shape != wanted.shape:
        fail("merged", f"{where} is {tuple(tensor.shape)}, not {tuple(wanted.shape)}.")
    if wanted.is_contiguous() and not tensor.is_contiguous():
        fail("layout", f"{where} is no longer contiguous, so it cannot be saved.")


def _check_value(life: Life, where: str, tensor: Tensor, wanted: Tensor) -> bool:
    """Check a weight that came back; return whether it is the base's from now on."""
    large = max(float(wanted.abs().max()), life.merged_size.get(where, 0.0))
    bound = WEIGHT[wanted.dtype] * life.plan.unmerged * large
    distance = apart(tensor, wanted)
    if distance > bound:
        fail(
            "unmerged",
            f"After unmerging {where} is {distance:.1e} away from what it was; "
            f"rounding allows {bound:.1e}.",
        )
    return wanted.dtype in HALF and distance > 0


def check_trainable(life: Life) -> None:
    """Raise NotHeldError if other parameters train than those of the trainable adapters."""
    plan, owners = life.plan, life.owners()
    if plan.trainable is None or plan.has_bias or (plan.merged and life.method.exchanges):
        return
    wanted = plan.trainable if plan.enabled else frozenset()
    training = set()
    for name, tensor in life.model.named_parameters():
        if not tensor.requires_grad:
            continue
        owner = owners.get(id(tensor))
        if owner is None and not _is_shared(life, name):
            fail("frozen", f"{name} of the base trains, which must be frozen.")
        if owner is not None and owner not in wanted:
            fail("frozen", f"{name} of adapter {owner} trains, which must be frozen.")
        training.add(owner)
    if not plan.merged:
        for name in sorted(wanted):
            _check_all_train(life, name, training)


def _check_all_train(life: Life, adapter: str, training: Collection[str | None]) -> None:
    """Raise NotHeldError if a parameter that the method trains, or one of a copy, is frozen."""
    if adapter not in training and None not in training and not _is_empty(life, adapter):
        fail("frozen", f"No parameter of adapter {adapter} trains, which must.")
    for path, module in life.holders():
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
    is_there = any(adapter in owned.adapters_of(module) for _, module in life.holders())
    return is_there and not any(isinstance(one, nn.Parameter) for *_, one in life.held(adapter))


def _is_shared(life: Life, name: str) -> bool:
    """Return whether a parameter is the tuner's own, shared by all adapters (a vector bank)."""
    base: set[str] = {key for key, _ in life.origin.named_parameters()}
    bare = name.removeprefix("base_model.model.").replace("base_layer.", "")
    return bare.replace("original_module.", "") not in base


def check_adapter_type(life: Life, change: Change) -> None:
    """Raise NotHeldError if an adapter that was just put in is in half precision unasked."""
    if not change.puts_in or not life.autocast:
        return
    through = change.through
    function = getattr(life.model, through) if isinstance(through, str) else through
    if "autocast_adapter_dtype" not in inspect.signature(function).parameters:
        return  # such releases never convert the adapters
    for path, module in life.holders():
        if owned.is_copy_holder(module):
            continue
        for name in change.puts_in:
            for key, tensor in owned.held(module, name).items():
                if key.startswith(life.method.trains) and tensor.dtype in HALF:
                    fail("dtype", f"{path}.{key} is {type_name(tensor.dtype)}, not float32.")


def check_output(life: Life, change: Change) -> None:
    """Raise NotHeldError if the model computes another function than it must."""
    output, effect = life.observe(), life.plan.effect()
    wanted_type = next(life.reference.parameters()).dtype
    if output.dtype != wanted_type:
        came, wanted = type_name(output.dtype), type_name(wanted_type)
        fail("dtype", f"The output is {came}; the base's is {wanted}.")
    if effect is None or (life.plan.merged and life.on.network.shares_a_module):
        return

    def compare(wanted: Tensor, check: str, what: str) -> None:
        life.compare(output, wanted, check, what, parameters=parameters, slack=1.0)

    parameters: Mapping[str, Tensor] | None = None
    if effect == ():
        compare(life.oracle.output(), "disabled", "the base")
        return
    parameters = life.parameters(effect)
    known = life.known.get(effect)
    if known is not None:
        compare(known, change.known_by, "before")
    elif change.is_start and life.method.holds(life.method.identity, life.on.adapters[0].settings):
        compare(life.start, "identity", "the base")
    if change.fills:
        _check_effect(life, output, parameters)
    if parameters is not None:
        compare(life.oracle.output(parameters), "function", "the formula")
    life.known.setdefault(effect, output)


def _check_effect(life: Life, output: Tensor, parameters: Mapping[str, Tensor] | None) -> None:
    """Raise NotHeldError if filled adapters change nothing, though the formula or layer would.

    An output may depend on no weight: a small map's padding can be all that a kernel meets.
    """
    if life.all_empty():
        return
    base = life.oracle.output()
    if parameters is None:
        parameters = life.reweighted(life.plan.active)
    least = TOO_SMALL * float(base.abs().max())
    if apart(life.oracle.output(parameters), base) <= 100 * least:
        return
    if apart(output, base) <= least:
        names = ", ".join(life.plan.active)
        message = f"All parameters of {names} have changed, but the output is the base's."
        fail("no_op", message)


def type_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without its library's."""
    return str(dtype).removeprefix("torch.")
