"""Which acts make sense in a state: those of which the documentation says what they do."""

from __future__ import annotations

from collections.abc import Sequence

from peft_fuzz import example as e
from peft_fuzz.life.plan import Plan, adapter_settings, moves_base

COPIES_IN_MIXED = frozenset({"conv1d", "conv2d", "embedding", "linear"})
"""Layers whose copies (`modules_to_save`) peft's mixed batches know (utils/other.py)."""
HOT_SWAP = frozenset({"conv2d", "linear"})
"""Layers that hot-swapping pads (utils/hotswap.py)."""


def legal(plan: Plan, act: e.Act) -> bool:  # noqa: C901, PLR0911, PLR0912
    """Return whether the documentation says what an act does in this state."""
    if plan.ended:
        return False
    there, abilities = plan.settings, plan.abilities
    match act:
        case e.Add(adapter=name):
            names = {adapter.name for adapter in plan.example.adapters}
            wanted = adapter_settings(plan.example, name) if name in names else {}
            several_biases = plan.has_bias and wanted.get("bias", "none") != "none"
            alone = moves_base(wanted) or (plan.moved and name not in there)
            return (
                name in names
                and not plan.merged
                and plan.enabled
                and not several_biases
                and not alone
            )
        case e.Activate(adapters=names):
            return (
                {*names} <= {*there}
                and len({*names}) == len(names) > 0
                and (len(names) == 1 or "several_active" in abilities)
                and plan.enabled
                and (not plan.merged or "unmerge" in abilities)
                and _copies_apart(plan, names)
            )
        case e.Disable(within=within):
            if not plan.active:
                return False
            # The first forward pass of a disabled layer takes merged weights out.
            return plan.enabled and (not plan.merged or (not within and "unmerge" in abilities))
        case e.Enable():
            return not plan.enabled
        case e.Mode(training=training):
            return training != plan.training
        case e.Fill():
            return _trains(plan)
        case e.Train():
            return _trains(plan) and plan.enabled
        case e.Merge(adapters=names, safe=safe, broken=broken):
            which = plan.active if names is None else names
            return (
                "merge" in abilities
                and plan.enabled
                and {*which} <= {*there}
                and len({*which}) == len(which)
                and bool({*which} - {*plan.merged})
                and (len({*which, *plan.merged}) == 1 or "several_active" in abilities)
                and (not broken or (safe and not plan.merged))
                and not plan.has_bias
            )
        case e.Unmerge():
            return bool(plan.merged) and "unmerge" in abilities and plan.enabled
        case e.SaveLoad():
            # No file has the biases of the base that a deleted adapter has trained.
            return bool(plan.active) and not (plan.merged or plan.padded or plan.biased)
        case e.LoadBeside(adapter=adapter, name=name):
            return (
                adapter in there
                and name not in there
                and not plan.merged
                and plan.enabled
                and not plan.has_bias
                and not plan.moved
                and not plan.padded
                and there[adapter] is not None
            )
        case e.Delete(adapter=name):
            return name in there and plan.enabled and _deletable(plan, name)
        case e.Unload(merge=merge):
            if merge:
                return (
                    "merge" in abilities
                    and plan.enabled
                    and plan.merged in {(), plan.active}
                    and bool(plan.active)
                    and not plan.has_bias
                )
            return plan.enabled and not plan.merged and bool(plan.active)
        case e.Mixed(adapters=names):
            return (
                "mixed" in abilities
                and len(names) == plan.example.network.batch
                and plan.enabled
                and not plan.training
                and not plan.merged
                and bool(plan.active)
                and not plan.has_bias
                and _copies_mixable(plan)
                and not _adapts(plan, "attention")  # peft says so with a TypeError
            )
        case e.Weighted(adapters=names, name=name, weights=weights):
            return (
                "weighted" in abilities
                and {*names} <= {*there}
                and len({*names}) == len(names) == len(weights) > 0
                and name not in there
                and not plan.merged
                and plan.enabled
                and not plan.has_bias
                and not plan.moved
                and not plan.padded
                and not any(plan.copies(each) for each in names)
                and not any(there[each] is None for each in names)
                and not any(each in plan.scales for each in names)
            )
        case e.Scale(adapter=name):
            return (
                "scale" in abilities
                and name in there
                and there[name] is not None
                and not plan.merged
                and not plan.padded
            )
        case e.HotSwap(adapter=name, target_rank=rank):
            return (
                "hot_swap" in abilities
                and name in there
                and plan.active == (name,)
                and plan.enabled
                and _swappable(plan, name, rank)
            )
        case e.Copy():
            return True
        case e.Convert(dtype=dtype, channels_last=last):
            # `to` knows channels last for weights of four dimensions alone.
            flat = all(layer.kind != "conv3d" for layer in plan.example.network.layers)
            return (
                (dtype is not None or last is not None)
                and not plan.merged
                and (last is None or flat)
            )


def _trains(plan: Plan) -> bool:
    return (
        not plan.merged
        and plan.enabled
        and plan.trainable is not None
        and bool(plan.trainable & {*plan.active})
    )


def _adapts(plan: Plan, kind: e.Kind) -> bool:
    """Return whether an adapter is on a layer of a kind; a combination is where its parts are."""
    kinds = {layer.name: layer.kind for layer in plan.example.network.layers}
    return any(kinds[name] == kind for each in plan.settings for name in plan.targets(each) or ())


def _copies_apart(plan: Plan, names: Sequence[str]) -> bool:
    copies = [layer for name in names for layer in plan.copies(name)]
    return len(copies) == len({*copies})


def _copies_mixable(plan: Plan) -> bool:
    kinds = {layer.name: layer.kind for layer in plan.example.network.layers}
    copies = {kinds[layer] for name in plan.settings for layer in plan.copies(name)}
    return copies <= COPIES_IN_MIXED


def _deletable(plan: Plan, name: str) -> bool:
    if name in plan.merged:
        return True
    rest = [key for key in plan.active if key != name]
    return not plan.merged and _copies_apart(plan, rest)


def _swappable(plan: Plan, name: str, rank: int | None) -> bool:
    settings, targets = plan.settings[name], plan.targets(name)
    if settings is None or targets is None or settings.get("use_dora") or plan.copies(name):
        return False
    if len(plan.settings) > 1 and rank is not None:
        return False
    layers = [layer for layer in plan.example.network.layers if layer.name in targets]
    ranks = [settings.get("r", 8), *dict(settings.get("rank_pattern") or {}).values()]
    fits = rank is None or (
        rank >= max(ranks) and all(rank % layer.groups == 0 for layer in layers)
    )
    return fits and all(layer.kind in HOT_SWAP for layer in layers)
