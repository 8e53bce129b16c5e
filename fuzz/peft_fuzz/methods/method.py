"""What a method promises, what is drawn for it, and what its adapter computes by its formula."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cache
from typing import Any, Final, Literal, TypeAlias

from torch import Tensor, nn

from peft_fuzz.methods.fields import Drawing
from peft_fuzz.networks.network import TRANSPOSED, Kind, Layer
from peft_regress.catalogue.methods import ADAPTERS

Ability: TypeAlias = Literal["hot_swap", "merge", "several_active", "unmerge"]
Settings: TypeAlias = "Mapping[str, Any]"
Stage: TypeAlias = Literal["call", "wrap"]
"""`wrap`: while an adapter is put in (the first, a second, a loaded one); `call`: any other act."""
CONFIGS: Final = {method.name: method.config for method in ADAPTERS}
"""The configuration classes of the methods that the gate measures, too."""
LINEAR: Final = frozenset[Kind]({"linear"})
DENSE: Final = frozenset[Kind]({"linear", "transposed_linear"})
MERGES: Final = frozenset[Ability]({"merge", "several_active", "unmerge"})


@dataclass(frozen=True, kw_only=True)
class LayerAdapter:
    """What one adapter has in one layer.

    Attributes:
        layer_name: The dotted path in the base network, which rank and alpha patterns are about.
        tensors: Its parameters and buffers there in float64, as `adapter_tensors` names them.
    """

    settings: Settings
    layer_name: str
    tensors: Mapping[str, Tensor]


Formula: TypeAlias = "Callable[[nn.Module, Layer, Sequence[LayerAdapter]], Parameters | None]"
"""Returns the layer's parameters that adapters change, in plain torch; None if it does not tell.

It gets the layer without adapters, in float64, its parameters as wrapping left them (PiSSA moves
them) and with its trained biases.
"""
Parameters: TypeAlias = "Mapping[str, Tensor]"
Flops: TypeAlias = Callable[[Layer, Settings, int], int]
"""Returns an upper bound of what one adapter adds to a layer's own operator, which runs once.

It gets the number of output positions of the whole batch: (items x tokens), or (items x height x
width) of a convolution's output.
"""


@dataclass(frozen=True)
class Limit:
    """A documented limit: the library refuses clearly, and that is right."""

    message: str
    error: str = "ValueError"
    stage: Stage | None = "wrap"

    def meets(self, error: BaseException, stage: Stage) -> bool:
        """Return whether an exception is this refusal."""
        return (
            self.stage in {None, stage}
            and any(cls.__name__ == self.error for cls in type(error).__mro__)
            and re.search(self.message, str(error)) is not None
        )


MOVES_BASE: Final = ("corda", "lora_ga", "olora", "pissa")
"""Starts (`init_lora_weights`) that change the base weights: not for use beside other adapters."""


def moves_base(settings: Settings) -> bool:
    """Return whether a start changes the base weights."""
    return str(settings.get("init_lora_weights")).startswith(MOVES_BASE)


def always(_settings: Settings) -> bool:
    """Promise it for all settings."""
    return True


def never(_settings: Settings) -> bool:
    """Promise it for no settings."""
    return False


def starts_true(settings: Settings) -> bool:
    """Promise it for the default start alone, not for those that have names."""
    return settings["init_weights"] is True


def _default_start(settings: Settings) -> bool:
    return bool(settings["init_weights"])


def _dropout(settings: Settings) -> bool:
    return any(value for name, value in settings.items() if name.endswith("dropout"))


@dataclass(frozen=True)
class Method:
    """A method, for the fuzzer: all that it knows of it.

    Attributes:
        draws: Returns what is drawn for an adapter on some layers.
        kinds, abilities: The layers and acts that its documentation names.
        formula: None if the method's function is no new weight (then other checks remain).
        flops: None if no bound is derived.
        by_hand: The function of `scripts.script_functions` that computes a weight with an adapter.
        fixed: Settings that make the configuration one of this method.
        trains: What the names of the parameters begin with that the paper trains; () if unknown.
        limits: Documented refusals; a silent wrong result is never a limit.
        identity: Whether the documentation promises the base's function for these settings.
        same_base: Whether wrapping leaves the base weights as they are.
        exchanges: Whether merging puts the adapter in the base's place, and the base in its own.
        random: Whether a call in training mode draws random numbers.
        runs: The method whose layers this one runs.
    """

    name: str
    config: str
    draws: Drawing
    _: KW_ONLY
    kinds: frozenset[Kind] = LINEAR
    abilities: frozenset[Ability] = MERGES
    formula: Formula | None = None
    flops: Flops | None = None
    by_hand: str = ""
    fixed: Settings = field(default_factory=dict)
    trains: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    exchanges: bool = False
    identity: Callable[[Settings], bool] = _default_start
    same_base: Callable[[Settings], bool] = always
    random: Callable[[Settings], bool] = _dropout
    runs: str = ""

    @property
    def available(self) -> bool:
        """Tell whether the installed peft has this method."""
        import peft

        return hasattr(peft, self.config) and set(self.fixed) <= set(config_defaults(self.config))

    def settings(self, settings: Settings) -> dict[str, Any]:
        """Return an adapter's settings with the installed peft's defaults of all others."""
        return {**config_defaults(self.config), **self.fixed, **settings}

    def holds(self, promise: Callable[[Settings], bool], settings: Settings) -> bool:
        """Return whether `identity`, `same_base` or `random` is so for an adapter's settings."""
        return promise(self.settings(settings))

    def parameters(
        self, base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
    ) -> Mapping[str, Tensor] | None:
        """Return what a layer with these active adapters must have for parameters.

        None where no formula tells; the check then did not run, which is counted. A convolution's
        weight may have more input channels than its base's: LoRA's update of a grouped convolution
        is dense. Such a layer then has `inputs // weight.shape[1]` groups.
        """
        if self.formula is None:
            return None
        completed = [replace(each, settings=self.settings(each.settings)) for each in adapters]
        try:
            return self.formula(base, layer, completed)
        except KeyError:  # this release names a tensor otherwise
            return None

    def extra_flops(self, layer: Layer, settings: Settings, positions: int) -> int | None:
        """Return how many forward FLOPs an adapter may add in a layer; None if not derived."""
        if self.flops is None:
            return None
        return self.flops(layer, self.settings(settings), positions)

    def refuses(self, error: BaseException, stage: Stage) -> bool:
        """Return whether an exception tells of a documented limit.

        An example beyond a limit that raises nothing is checked like any other.
        """
        return any(limit.meets(error, stage) for limit in (*self.limits, *COMMON_LIMITS))


COMMON_LIMITS: Final = (
    Limit("Target modules .* not found in the base model|No modules were targeted"),
    Limit("not supported", error="TypeError"),
    Limit("supports only 1 adapter with bias|only 1 adapter with bias"),
    Limit(
        "Only one adapter can be set at a time for modules_to_save|"
        "more than one adapter.*modules_to_save|cannot.*modules_to_save",
        stage=None,
    ),
)


def no_groups(method: str) -> Limit:
    """Return the limit of a method that adapts no grouped convolution."""
    message = f"{method} does not support .* layers with groups > 1"
    return Limit(message, error="NotImplementedError")


@cache
def config_defaults(config: str) -> dict[str, Any]:
    """Return the fields of a configuration class of the installed peft with their defaults."""
    import peft

    cls = getattr(peft, config, None)
    if cls is None:
        return {}
    return {
        each.name: each.default_factory()
        if each.default_factory is not dataclasses.MISSING
        else None
        if each.default is dataclasses.MISSING
        else each.default
        for each in dataclasses.fields(cls)
    }


def as_rows(weight: Tensor, kind: Kind) -> Tensor:
    """Return a stored weight as (outputs, inputs, *kernel), or a result as it is stored."""
    return weight.T if kind in TRANSPOSED else weight


def rows_of(base: nn.Module, layer: Layer) -> Tensor:
    """Return the weight of a layer as (outputs, inputs, *kernel)."""
    weight: Tensor = base.weight  # type: ignore[assignment]
    return as_rows(weight, layer.kind)


def dense(weight: Tensor, groups: int) -> Tensor:
    """Return a grouped convolution's weight with zeros between its groups.

    weight: (outputs, inputs / groups, *kernel); the result: (outputs, inputs, *kernel).
    """
    if groups == 1:
        return weight
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    full = weight.new_zeros(weight.shape[0], inputs * groups, *weight.shape[2:])
    for group in range(groups):
        rows, columns = (slice(group * n, (group + 1) * n) for n in (outputs, inputs))
        full[rows, columns] = weight[rows]
    return full
