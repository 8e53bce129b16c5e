"""What a life must have led to, without a library: what is there, active, merged and trainable."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from peft_fuzz.methods.method import Ability, Settings, moves_base
from peft_fuzz.networks.network import AdaptedNetwork, Kind, Network


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an act may change, and what is checked for that.

    Attributes:
        known_by: The check that fails if the output is another one than before.
        adapters: Whose tensors it changes.
        trains: Whether it changes what trains: with the biases of the base, if an adapter has them.
        fills: Whether the adapters must have an effect afterwards, and the formula's gradients.
        is_start: Whether the adapter is new, so that the output may have to be the base's.
        is_called_first: Whether it ends with a call, in which a disabled layer takes weights out.
        through: What puts `puts_in` in, or the name of that method of the model.
    """

    known_by: str = "two_ways"
    adapters: frozenset[str] = frozenset()
    trains: bool = False
    fills: bool = False
    base: bool = False
    is_another_model: bool = False
    is_start: bool = False
    is_called_first: bool = False
    puts_in: tuple[str, ...] = ()
    through: Callable[..., Any] | str = ""


def trains_bias(settings: Settings) -> bool:
    """Return whether an adapter trains biases of the base."""
    return bool(settings.get("bias", "none") != "none")


def matched(names: object, network: Network) -> frozenset[str]:
    """Return the layers that `target_modules` or `modules_to_save` of a configuration mean."""
    layers = [layer.name for layer in network.layers]
    if isinstance(names, str):
        return frozenset(name for name in layers if re.fullmatch(names, name))
    ends = [str(name) for name in names] if isinstance(names, (list, tuple)) else []
    return frozenset(
        name for name in layers for end in ends if name == end or name.endswith(f".{end}")
    )


def adapted(settings: Settings, network: Network) -> frozenset[str]:
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
        on: The network and the adapters that acts may add.
        settings: Of the adapters that are there, in order of their addition.
        trainable: The adapters whose parameters train; None where the documentation leaves it open.
        padded: Whether the adapters are prepared for swaps of another rank.
        unmerged: How often weights have been merged and taken out again.
    """

    on: AdaptedNetwork
    abilities: Collection[Ability]
    settings: Mapping[str, Settings]
    active: tuple[str, ...]
    enabled: bool = True
    merged: tuple[str, ...] = ()
    training: bool = False
    trainable: frozenset[str] | None = frozenset()
    padded: bool = False
    unmerged: int = 0
    ended: bool = False

    @classmethod
    def start(cls, on: AdaptedNetwork, abilities: Collection[Ability]) -> Self:
        """Return the state after the first adapter wrapped the network."""
        first = on.adapters[0]
        frozen = bool(first.settings.get("inference_mode"))
        return cls(
            on=on,
            abilities=abilities,
            settings={first.name: first.settings},
            active=(first.name,),
            trainable=frozenset() if frozen else frozenset({first.name}),
        )

    def targets(self, adapter: str) -> frozenset[str]:
        """Return the layers that an adapter adapts."""
        return adapted(self.settings[adapter], self.on.network)

    def copies(self, adapter: str) -> frozenset[str]:
        """Return the layers that an adapter has a copy of (`modules_to_save`)."""
        return matched(self.settings[adapter].get("modules_to_save"), self.on.network)

    @property
    def kinds(self) -> dict[str, Kind]:
        """Return the kind of each layer, by its name."""
        return {layer.name: layer.kind for layer in self.on.network.layers}

    @property
    def is_open(self) -> bool:
        """Whether adapters act beside the base weights: enabled, and none merged."""
        return self.enabled and not self.merged

    @property
    def trains(self) -> bool:
        """Whether an active adapter trains."""
        return not self.merged and bool((self.trainable or frozenset()) & {*self.active})

    @property
    def has_bias(self) -> bool:
        """Return whether an adapter trains biases of the base."""
        return any(trains_bias(one) for one in self.settings.values())

    @property
    def moved(self) -> bool:
        """Return whether an adapter's start has changed the base weights."""
        return any(moves_base(settings) for settings in self.settings.values())

    def copies_apart(self, adapters: Sequence[str]) -> bool:
        """Return whether no two adapters have a copy of one layer."""
        copies = [layer for name in adapters for layer in self.copies(name)]
        return len(copies) == len({*copies})

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

    def with_adapter(self, name: str, settings: Settings) -> Self:
        """Return the state with one more adapter."""
        return replace(self, settings={**self.settings, name: settings})

    def taken_out(self) -> Self:
        """Return the state with all merged weights taken out."""
        return replace(self, merged=(), unmerged=self.unmerged + bool(self.merged))
