"""Simulate a life without a library: what is there, active, merged and trainable after each act."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from peft_regress.fuzz import example as e

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from peft_regress.fuzz.methods.method import Ability

Settings: TypeAlias = "Mapping[str, Any]"
COPIES_IN_MIXED = frozenset({"conv1d", "conv2d", "embedding", "linear"})
"""Layers whose copies (`modules_to_save`) peft's mixed batches know (utils/other.py)."""
MOVES_BASE = ("corda", "lora_ga", "olora", "pissa")
"""Starts (`init_lora_weights`) that change the base weights: not for use beside other adapters."""
HOT_SWAP = frozenset({"conv2d", "linear"})
"""Layers that hot-swapping pads (utils/hotswap.py)."""


def matched(names: object, network: e.Network) -> frozenset[str]:
    """Return the layers that `target_modules` or `modules_to_save` of a configuration mean."""
    layers = [layer.name for layer in network.layers]
    if isinstance(names, str):
        return frozenset(name for name in layers if re.fullmatch(names, name))
    ends = [str(name) for name in names] if isinstance(names, (list, tuple)) else []
    return frozenset(
        name for name in layers for end in ends if name == end or name.endswith(f".{end}")
    )


def adapted(settings: Settings, network: e.Network) -> frozenset[str]:
    """Return the layers that a configuration puts an adapter on.

    Left out are `exclude_modules` and, by `layers_to_transform`, what is in other blocks.
    """
    found = matched(settings.get("target_modules"), network)
    found -= matched(settings.get("exclude_modules"), network)
    blocks = settings.get("layers_to_transform")
    if blocks is None:
        return found
    indices = {str(each) for each in (blocks if isinstance(blocks, (list, tuple)) else [blocks])}
    return frozenset(name for name in found if indices & {*name.split(".")})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The state that the acts so far must have led to.

    Attributes:
        settings: Of the adapters that are there, in order of their addition; None for a weighted
            combination.
        trainable: The adapters whose parameters train; None where the documentation leaves it open.
        scales: The factors that `Scale` acts have set.
        padded: Whether the adapters are prepared for swaps of another rank.
        biased: Whether an adapter that trained biases of the base has been deleted.
        unmerged: How often weights have been merged and taken out again.

    """

    example: e.Example
    abilities: Collection[Ability]
    settings: Mapping[str, Settings | None]
    active: tuple[str, ...]
    enabled: bool = True
    merged: tuple[str, ...] = ()
    training: bool = False
    trainable: frozenset[str] | None = frozenset()
    scales: Mapping[str, float] = field(default_factory=dict)
    padded: bool = False
    biased: bool = False
    unmerged: int = 0
    ended: bool = False

    @classmethod
    def start(cls, example: e.Example, abilities: Collection[Ability]) -> Plan:
        """Return the state after the first adapter wrapped the network."""
        first = example.adapters[0]
        frozen = bool(first.settings.get("inference_mode"))
        return cls(
            example=example,
            abilities=abilities,
            settings={first.name: first.settings},
            active=(first.name,),
            trainable=frozenset() if frozen else frozenset({first.name}),
        )

    def targets(self, adapter: str) -> frozenset[str] | None:
        """Return the layers that an adapter adapts; None for a weighted combination."""
        settings = self.settings[adapter]
        if settings is None:
            return None
        return adapted(settings, self.example.network)

    def copies(self, adapter: str) -> frozenset[str]:
        """Return the layers that an adapter has a copy of (`modules_to_save`)."""
        settings = self.settings[adapter] or {}
        return matched(settings.get("modules_to_save"), self.example.network)

    @property
    def has_bias(self) -> bool:
        """Return whether an adapter trains biases of the base, or has done so."""
        return self.biased or any(
            (s or {}).get("bias", "none") != "none" for s in self.settings.values()
        )

    @property
    def moved(self) -> bool:
        """Return whether an adapter's start has changed the base weights."""
        return any(_moves_base(settings or {}) for settings in self.settings.values())

    def alike(self, adapters: Sequence[str]) -> bool:
        """Return whether adapters adapt the same layers and have no copies."""
        return len({self.targets(name) for name in adapters}) == 1 and not any(
            self.copies(name) for name in adapters
        )

    def effect(self) -> tuple[str, ...] | None:
        """Return the adapters whose function the model computes, in order; None if undefined."""
        if not self.enabled:
            return ()
        if not self.merged or self.merged == self.active:
            return self.active
        if set(self.merged) == set(self.active) or self.alike((*self.merged, *self.active)):
            return self.merged
        return None


def adapter_settings(example: e.Example, name: str) -> Settings:
    """Return the settings of the example's last adapter of a name."""
    return next(a.settings for a in reversed(example.adapters) if a.name == name)


def refusal(plan: Plan, act: e.Act) -> str | None:
    """Return why the library must refuse an act; None if it must carry it out."""
    there = plan.settings
    match act:
        case e.Add(adapter=name) if name in there:
            return f"an adapter {name} exists"
        case e.Add(adapter=name):
            wanted = adapter_settings(plan.example, name)
            if not adapted(wanted, plan.example.network):
                return f"adapter {name} matches no layer"
        case e.Mixed(adapters=names):
            unknown = sorted({*names} - {*there, "__base__"})
            if unknown:
                return f"there is no adapter {unknown[0]}"
        case e.Delete(adapter=name) if name in plan.merged:
            return f"adapter {name} is merged"
        case e.HotSwap(adapter=name) if name in plan.merged:
            return f"adapter {name} is merged"
    return None


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
            alone = _moves_base(wanted) or (plan.moved and name not in there)
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
            return bool(plan.active) and not plan.merged and not plan.padded
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


def after(plan: Plan, act: e.Act) -> Plan:  # noqa: C901, PLR0911, PLR0912
    """Return the state that a legal act, which must not be refused, leads to."""
    match act:
        case e.Add(adapter=name):
            settings = {**plan.settings, name: adapter_settings(plan.example, name)}
            return replace(plan, settings=settings)
        case e.Activate(adapters=names):
            plan = _taken_out(plan)
            return replace(plan, active=names, trainable=frozenset(names))
        case e.Disable(within=False):
            return replace(_taken_out(plan), enabled=False)
        case e.Enable():
            return replace(plan, enabled=True)
        case e.Mode(training=training):
            return replace(plan, training=training)
        case e.Merge(adapters=names, broken=False):
            which = plan.active if names is None else names
            new = [name for name in which if name not in plan.merged]
            return replace(plan, merged=(*plan.merged, *new))
        case e.Unmerge():
            return _taken_out(plan)
        case e.SaveLoad(trainable=trainable):
            first = (next(iter(plan.settings)),)
            # Another adapter than the first is activated afterwards, which makes it trainable.
            trains = trainable or plan.active != first
            return replace(
                plan,
                enabled=True,
                training=False,
                scales={},
                trainable=frozenset(plan.active) if trains else frozenset(),
            )
        case e.LoadBeside(adapter=adapter, name=name, trainable=trainable):
            settings = {**plan.settings, name: plan.settings[adapter]}
            # Loading for inference puts the whole model into evaluation mode.
            return replace(
                plan,
                settings=settings,
                trainable=None if trainable else plan.trainable,
                training=plan.training and trainable,
            )
        case e.Delete(adapter=name):
            return _without(plan, name)
        case e.Unload():
            return replace(plan, ended=True)
        case e.Weighted(name=name):
            return replace(plan, settings={**plan.settings, name: None}, trainable=None)
        case e.Scale(adapter=name, scale=scale):
            return replace(plan, scales={**plan.scales, name: scale})
        case e.HotSwap(adapter=name, target_rank=rank):
            scales = {key: value for key, value in plan.scales.items() if key != name}
            return replace(plan, scales=scales, padded=plan.padded or rank is not None)
    return plan


def _moves_base(settings: Settings) -> bool:
    return str(settings.get("init_lora_weights")).startswith(MOVES_BASE)


def _trains(plan: Plan) -> bool:
    return (
        not plan.merged
        and plan.enabled
        and plan.trainable is not None
        and bool(plan.trainable & {*plan.active})
    )


def _taken_out(plan: Plan) -> Plan:
    return replace(plan, merged=(), unmerged=plan.unmerged + bool(plan.merged))


def _without(plan: Plan, name: str) -> Plan:
    settings = {key: value for key, value in plan.settings.items() if key != name}
    left = tuple(key for key in plan.active if key != name)
    trainable = None if plan.trainable is None else plan.trainable - {name}
    if name in plan.active and not left and settings:
        # The library warns and takes another one; the life then activates the first.
        left = (next(iter(settings)),)
        trainable = frozenset(left)
    scales = {key: value for key, value in plan.scales.items() if key != name}
    # A model without adapters is to be unloaded; its calls are not documented.
    return replace(
        plan,
        settings=settings,
        active=left,
        trainable=trainable,
        scales=scales,
        biased=plan.has_bias,
        ended=not settings,
    )


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
