"""Simulate a life without a library: what is there, active, merged and trainable after each act."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from peft_fuzz import example as e
from peft_fuzz.methods.method import Ability

Settings: TypeAlias = "Mapping[str, Any]"
MOVES_BASE = ("corda", "lora_ga", "olora", "pissa")
"""Starts (`init_lora_weights`) that change the base weights: not for use beside other adapters."""


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
        return any(moves_base(settings or {}) for settings in self.settings.values())

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


def moves_base(settings: Settings) -> bool:
    """Return whether a start changes the base weights."""
    return str(settings.get("init_lora_weights")).startswith(MOVES_BASE)


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
