"""What a method promises, and what its adapter computes by its published formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from peft_regress.fuzz.example import Adapter, Example, Kind, Layer

Ability: TypeAlias = Literal[
    "hot_swap", "merge", "mixed", "several_active", "scale", "unmerge", "weighted"
]


@dataclass(frozen=True, kw_only=True)
class LayerAdapter:
    """What one adapter has in one layer.

    Attributes:
        settings: Of the adapter, without defaults.
        layer_name: The dotted path in the base network, which rank and alpha patterns are about.
        tensors: Its parameters and buffers there in float64, by their names in the layer without
            the adapter's name: `lora_A.weight`, `hada_w1_a`.
        scale: What a `Scale` act made of the scale; None if it is still the configured one.

    """

    settings: Mapping[str, Any]
    layer_name: str
    tensors: Mapping[str, Tensor]
    scale: float | None = None


class Formula(Protocol):
    """Computes what a layer with adapters has for parameters; plain torch, float64."""

    def __call__(
        self, base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
    ) -> Mapping[str, Tensor]:
        """Return the layer's parameters (`weight`, `bias`) with all adapters active.

        base: the layer without adapters, in float64. Raises nothing: what a method cannot do is
        told by `Method.refuses` before.
        """


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method, for the fuzzer.

    Attributes:
        name: As in the example, such as `lora`.
        config: The name of its class in `peft`.
        kinds: The layers that its documentation names.
        abilities: What its documentation lets one do with an adapter.
        formula: None if the method's function is no new weight (then other checks remain).
        source: Paper and section of the formula.

    """

    name: str
    config: str
    kinds: frozenset[Kind]
    abilities: frozenset[Ability]
    formula: Formula | None
    source: str

    def starts_as_identity(self, adapter: Adapter) -> bool:
        """Return whether the documentation promises the base's function for these settings."""
        raise NotImplementedError

    def keeps_base(self, adapter: Adapter) -> bool:
        """Return whether wrapping leaves the base weights as they are (PiSSA does not)."""
        raise NotImplementedError

    def refuses(self, example: Example) -> str | None:
        """Return the documented limit that an example exceeds; None if it must work."""
        raise NotImplementedError
