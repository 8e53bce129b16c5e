"""What a method promises, and what its adapter computes by its published formula."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from peft_fuzz.example import Adapter, Kind, Layer

if TYPE_CHECKING:
    from torch import Tensor, nn


Ability: TypeAlias = Literal[
    "hot_swap", "merge", "mixed", "scale", "several_active", "unmerge", "weighted"
]
Settings: TypeAlias = "Mapping[str, Any]"
Stage: TypeAlias = Literal["call", "wrap"]
"""`wrap`: while an adapter is put in (the first, a second, a loaded one); `call`: any other act."""


@dataclass(frozen=True, kw_only=True)
class LayerAdapter:
    """What one adapter has in one layer.

    Attributes:
        settings: Of the adapter; `Method.parameters` fills in the defaults of the installed peft.
        layer_name: The dotted path in the base network, which rank and alpha patterns are about.
        tensors: Its parameters and buffers there in float64, as `adapter_tensors` names them:
            `lora_A.weight`, `hada_w1_a`, of an attention's output `out_proj.lora_A.weight`.
        scale: The product of what `Scale` acts multiplied the configured scale by.

    """

    settings: Settings
    layer_name: str
    tensors: Mapping[str, Tensor]
    scale: float = 1.0


class Formula(Protocol):
    """Computes what a layer with adapters has for parameters; plain torch, float64."""

    def __call__(
        self, base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
    ) -> Mapping[str, Tensor] | None:
        """Return the layer's parameters that the adapters change; None if they do not tell.

        base: the layer without adapters, in float64, its parameters as wrapping left them (PiSSA
        moves them) and with its trained biases.
        """


class Flops(Protocol):
    """Counts what a formula needs beside the layer's own operator, which runs once."""

    def __call__(self, layer: Layer, settings: Settings, *, positions: int, training: bool) -> int:
        """Return an upper bound of the forward FLOPs of one adapter in one layer.

        positions: output positions of the whole batch: (items x tokens), or (items x height x
        width) of a convolution's output.
        """


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A documented limit: the library refuses clearly, and that is right.

    Attributes:
        message: A regular expression found in what the library says.
        source: Where the limit is documented.
        stage: When it may come; None for any time.
        error: The type of the exception.

    """

    message: str
    source: str
    error: str
    stage: Stage | None = None

    def meets(self, error: BaseException, stage: Stage) -> bool:
        """Return whether an exception is this refusal."""
        return (
            self.stage in {None, stage}
            and any(cls.__name__ == self.error for cls in type(error).__mro__)
            and re.search(self.message, str(error)) is not None
        )


def _always(_settings: Settings) -> bool:
    return True


def _never(_settings: Settings) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method, for the fuzzer.

    Attributes:
        name: As in the example, such as `lora`.
        config: The name of its class in `peft`.
        kinds: The layers that its documentation names.
        abilities: What its documentation lets one do with an adapter.
        source: Paper and section of the formula.
        formula: None if the method's function is no new weight (then other checks remain).
        flops: None if no bound is derived.
        fixed: Settings that make the configuration one of this method.
        needed: Fields without which no configuration can be made.
        trains: What the names of the parameters begin with that the paper trains, all of them; ()
            if no formula tells.
        limits: Documented refusals; a silent wrong result is never a limit.
        identity: Whether the documentation promises the base's function for these settings.
        same_base: Whether wrapping leaves the base weights as they are.
        exchanges: Whether merging puts the adapter in the base's place, and the base in its own.
        random: Whether a call in training mode draws random numbers.

    """

    name: str
    config: str
    kinds: frozenset[Kind]
    abilities: frozenset[Ability]
    source: str
    formula: Formula | None = None
    flops: Flops | None = None
    fixed: Settings = field(default_factory=dict)
    needed: frozenset[str] = frozenset()
    trains: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    exchanges: bool = False
    identity: Callable[[Settings], bool] = _always
    same_base: Callable[[Settings], bool] = _always
    random: Callable[[Settings], bool] = _never

    @property
    def available(self) -> bool:
        """Tell whether the installed peft has this method."""
        import peft

        return hasattr(peft, self.config) and set(self.fixed) <= set(config_defaults(self.config))

    def settings(self, settings: Settings) -> dict[str, Any]:
        """Return an adapter's settings with the installed peft's defaults of all others."""
        return {**config_defaults(self.config), **self.fixed, **settings}

    def starts_as_identity(self, adapter: Adapter) -> bool:
        """Return whether the documentation promises the base's function for these settings."""
        return self.identity(self.settings(adapter.settings))

    def keeps_base(self, adapter: Adapter) -> bool:
        """Return whether wrapping leaves the base weights as they are (PiSSA does not)."""
        return self.same_base(self.settings(adapter.settings))

    def draws_in_training(self, adapter: Adapter) -> bool:
        """Return whether a call in training mode draws random numbers (dropout)."""
        return self.random(self.settings(adapter.settings))

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

    def extra_flops(
        self, layer: Layer, adapter: Adapter, *, positions: int, training: bool
    ) -> int | None:
        """Return how many forward FLOPs an adapter may add in a layer; None if not derived."""
        if self.flops is None:
            return None
        settings = self.settings(adapter.settings)
        return self.flops(layer, settings, positions=positions, training=training)

    def refusal(self, error: BaseException, stage: Stage) -> str | None:
        """Return the source of the documented limit that an exception tells of; None if none.

        To be asked about an exception only. An example beyond a limit that raises nothing is
        checked like any other.
        """
        for limit in (*self.limits, *COMMON_LIMITS):
            if limit.meets(error, stage):
                return limit.source
        return None


COMMON_LIMITS: Final = (
    Limit(
        message="Target modules .* not found in the base model|No modules were targeted",
        source="error text of peft.tuners.tuners_utils: nothing to adapt",
        error="ValueError",
        stage="wrap",
    ),
    Limit(
        message="not supported",
        source="error text of each tuner: the types of layers that it can adapt",
        error="TypeError",
        stage="wrap",
    ),
    Limit(
        message="supports only 1 adapter with bias|only 1 adapter with bias",
        source="peft.tuners.tuners_utils: one adapter with a bias other than none",
        error="ValueError",
        stage="wrap",
    ),
    Limit(
        message="Only one adapter can be set at a time for modules_to_save|"
        "more than one adapter.*modules_to_save|cannot.*modules_to_save",
        source="peft.utils.other: several adapters with modules_to_save on one module",
        error="ValueError",
    ),
)


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
