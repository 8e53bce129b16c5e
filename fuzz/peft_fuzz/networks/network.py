"""A network and its adapters, as plain JSON values: they can be stored, sent and made smaller."""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from peft_regress.cases import Name

Kind: TypeAlias = Literal[
    "attention", "conv1d", "conv2d", "conv3d", "embedding", "linear", "transposed_linear"
]
"""`transposed_linear` is `transformers.pytorch_utils.Conv1D`, `attention` `MultiheadAttention`."""
DType: TypeAlias = Literal["bfloat16", "float16", "float32"]
Size: TypeAlias = Annotated[int, Meta(ge=0, le=4096)]
Setting: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}\Z")]
"""The name of a field of a configuration: it is a keyword in a script."""
DIMENSIONS: Final[dict[str, int]] = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
"""The spatial dimensions of each convolution."""
TRANSPOSED: Final = frozenset[str]({"embedding", "transposed_linear"})
"""Their weights are stored as (inputs, outputs); an embedding's inputs are its tokens."""


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of an example."""


class Layer(Value, frozen=True, kw_only=True, omit_defaults=True):
    """A layer of the network; layers run one after another, each on what the one before returns.

    Attributes:
        name: Its dotted path in the network; the parts before the last one are containers.
        inputs: Input features or channels; the number of embeddings; the width of an attention.
        kernel: One size for each spatial dimension of a convolution; so are the next three.
        same_as: The name of an earlier layer whose module this name has, too (the fields above must
            be equal); the module runs once for each name.
    """

    name: str
    kind: Kind
    inputs: Size
    outputs: Size
    kernel: tuple[Size, ...] = ()
    stride: tuple[Size, ...] = ()
    padding: tuple[Size, ...] | Literal["same"] = ()
    dilation: tuple[Size, ...] = ()
    groups: Size = 1
    padding_mode: Literal["circular", "reflect", "replicate", "zeros"] = "zeros"
    bias: bool = True
    heads: Size = 1
    same_as: str | None = None

    @property
    def is_convolution(self) -> bool:
        """Whether the layer has a kernel."""
        return self.kind in DIMENSIONS

    @property
    def fan_in(self) -> int:
        """Return how many inputs each output is made of, groups left out of account."""
        return self.inputs * prod(self.kernel)

    @property
    def rotated_inputs(self) -> int:
        """Return how many inputs a rotation has: of an embedding the width."""
        return self.outputs if self.kind == "embedding" else self.fan_in

    def flops(self, positions: int) -> int:
        """Return the forward FLOPs of the operator: 2 for a multiplication and addition."""
        if self.kind == "embedding":
            return 0
        return 2 * self.outputs * self.fan_in // self.groups * positions


class Network(Value, frozen=True, kw_only=True, omit_defaults=True):
    """A network of few layers with seeded weights.

    Attributes:
        layers: Convolutions run first, on (batch, channels, *sizes); before the first other layer
            the mean over positions is taken.
        sizes: Spatial sizes of a convolution's input; the number of tokens; () without either.
    """

    layers: tuple[Layer, ...]
    sizes: tuple[Size, ...] = ()
    batch: Size = 2
    dtype: DType = "float32"
    channels_last: bool = False
    seed: int = 0

    @property
    def shares_a_module(self) -> bool:
        """Whether a module runs under two names.

        What is merged into it acts under both, although an adapter wraps it under one of them.
        """
        return any(layer.same_as is not None for layer in self.layers)


class Adapter(Value, frozen=True, kw_only=True):
    """An adapter: its name, and the fields of the method's configuration that are not default.

    A folder is named after it. `settings` has JSON values; `target_modules` and `modules_to_save`
    are lists of names or a regular expression.
    """

    name: Name
    settings: dict[Setting, Any]


class AdaptedNetwork(Value, frozen=True, kw_only=True, omit_defaults=True):
    """A network and adapters of one method."""

    network: Network
    method: str
    adapters: tuple[Adapter, ...]

    def settings_of(self, name: str) -> dict[str, Any]:
        """Return the settings of the last adapter of a name."""
        return next(one.settings for one in reversed(self.adapters) if one.name == name)
