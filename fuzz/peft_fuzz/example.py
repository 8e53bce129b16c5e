"""What is tried: a small network, adapters of one method, and a life. Plain JSON values.

An example names everything by strings and numbers, so that it can be stored, sent to a worker, made
smaller, and run under any release.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from peft_regress.cases import Name

SCHEMA: Final = 1
"""Raised when stored examples get another meaning."""

Kind: TypeAlias = Literal[
    "attention",
    "conv1d",
    "conv2d",
    "conv3d",
    "embedding",
    "linear",
    "transposed_linear",
]
"""`transposed_linear` is `transformers.pytorch_utils.Conv1D`, `attention` `MultiheadAttention`."""
DType: TypeAlias = Literal["bfloat16", "float16", "float32"]
Size: TypeAlias = Annotated[int, Meta(ge=0, le=4096)]
Setting: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}\Z")]
"""The name of a field of a configuration: it is a keyword in a script."""


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of an example."""


class Layer(_Value, frozen=True, kw_only=True, omit_defaults=True):
    """A layer of the network; layers run one after another, each on what the one before returns.

    Attributes:
        name: Its dotted path in the network; the parts before the last one are containers.
        inputs: Input features or channels; the number of embeddings; the width of an attention.
        outputs: Output features or channels; the width of an embedding or attention.
        kernel: One size for each spatial dimension of a convolution.
        padding: One size for each dimension, or "same".
        heads: Of an attention.
        by_keyword: Call the layer with keyword arguments, as an attention allows.
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
    by_keyword: bool = False
    same_as: str | None = None


class Network(_Value, frozen=True, kw_only=True, omit_defaults=True):
    """A network of few layers with seeded weights.

    Attributes:
        layers: In the order in which they run. Convolutions run first, on (batch, channels,
            *sizes); before the first other layer the mean over positions is taken.
        sizes: Spatial sizes of the input of a convolution; the number of tokens of a sequence; ()
            for (batch, features).
        batch: How many items the input has.
        seed: Of weights and input.

    """

    layers: tuple[Layer, ...]
    sizes: tuple[Size, ...] = ()
    batch: Size = 2
    dtype: DType = "float32"
    channels_last: bool = False
    seed: int = 0


class Adapter(_Value, frozen=True, kw_only=True):
    """An adapter: its name, and the fields of the method's configuration that are not default.

    A folder is named after it. `settings` has JSON values; `target_modules` and `modules_to_save`
    are lists of names or a regular expression.
    """

    name: Name
    settings: dict[Setting, Any]


class _Act(_Value, frozen=True, kw_only=True, omit_defaults=True, tag_field="act"):
    """What is done with an adapted model."""


class Add(_Act, frozen=True, kw_only=True, tag="add"):
    """Add another of the example's adapters."""

    adapter: Name


class Activate(_Act, frozen=True, kw_only=True, tag="activate"):
    """Make exactly these adapters active; several ones always through the tuner."""

    adapters: tuple[Name, ...]
    through_tuner: bool = False
    """Call `set_adapter` of the tuner (`base_model`), not of the model."""


class Disable(_Act, frozen=True, kw_only=True, tag="disable"):
    """Disable all adapters until they are enabled; or, as `within`, only around a call."""

    within: bool = False


class Enable(_Act, frozen=True, kw_only=True, tag="enable"):
    """Enable the adapters again."""


class Mode(_Act, frozen=True, kw_only=True, tag="mode"):
    """Switch the model to training or evaluation mode."""

    training: bool


class Fill(_Act, frozen=True, kw_only=True, tag="fill"):
    """Put seeded numbers into what trains of the active adapters."""

    seed: int = 0


class Train(_Act, frozen=True, kw_only=True, tag="train"):
    """Take training steps, with the optimizer of the last `Train` or a new one."""

    steps: Annotated[int, Meta(ge=1, le=4)] = 1
    keep_optimizer: bool = False


class Merge(_Act, frozen=True, kw_only=True, tag="merge"):
    """Merge adapters into the base weights; None for the active ones."""

    adapters: tuple[Name, ...] | None = None
    safe: bool = False
    broken: bool = False
    """Put a NaN into an adapter's parameter first, and expect `safe` to refuse; then restore it."""


class Unmerge(_Act, frozen=True, kw_only=True, tag="unmerge"):
    """Take all merged adapters out of the base weights."""


class SaveLoad(_Act, frozen=True, kw_only=True, tag="save_load"):
    """Save the adapters, and load them into a fresh copy of the base; go on with the loaded one."""

    trainable: bool = False


class LoadBeside(_Act, frozen=True, kw_only=True, tag="load_beside"):
    """Save an adapter, and load it into the same model under a new name."""

    adapter: Name
    name: Name
    trainable: bool = False


class Delete(_Act, frozen=True, kw_only=True, tag="delete"):
    """Delete an adapter."""

    adapter: Name


class Unload(_Act, frozen=True, kw_only=True, tag="unload"):
    """Take all adapters off; with `merge`, merge them first. The life ends here."""

    merge: bool = False
    safe: bool = False


class Mixed(_Act, frozen=True, kw_only=True, tag="mixed"):
    """Compute a batch in which each item names its adapter (`__base__` for none)."""

    adapters: tuple[Name, ...]


class Weighted(_Act, frozen=True, kw_only=True, tag="weighted"):
    """Add a weighted combination of adapters under a new name."""

    adapters: tuple[Name, ...]
    weights: tuple[float, ...]
    combination: str
    name: Name
    density: float | None = None
    """The share of entries that combinations by pruning (`ties`, `dare_linear` ...) keep."""


class Scale(_Act, frozen=True, kw_only=True, tag="scale"):
    """Set the scale of an adapter in each layer."""

    adapter: Name
    scale: float


class HotSwap(_Act, frozen=True, kw_only=True, tag="hot_swap"):
    """Swap other weights into an adapter, from a file: those it has once it is filled anew."""

    adapter: Name
    target_rank: Size | None = None
    """Prepare the model for swaps up to this rank first."""


class Copy(_Act, frozen=True, kw_only=True, tag="copy"):
    """Go on with a deep copy of the model."""


class Convert(_Act, frozen=True, kw_only=True, tag="convert"):
    """Convert the model with `to(...)`."""

    dtype: DType | None = None
    channels_last: bool | None = None


Act: TypeAlias = (
    Activate
    | Add
    | Convert
    | Copy
    | Delete
    | Disable
    | Enable
    | Fill
    | HotSwap
    | LoadBeside
    | Merge
    | Mixed
    | Mode
    | SaveLoad
    | Scale
    | Train
    | Unload
    | Unmerge
    | Weighted
)


class Example(_Value, frozen=True, kw_only=True, omit_defaults=True):
    """A network, the adapters of one method, and the acts of a life.

    Attributes:
        method: A name of `fuzz.methods`, such as `lora`.
        adapters: The first one wraps the network; the others are added by acts.
        autocast: `autocast_adapter_dtype` of peft.

    """

    network: Network
    method: str
    adapters: tuple[Adapter, ...]
    acts: tuple[Act, ...] = ()
    autocast: bool = True


class Failure(_Value, frozen=True, kw_only=True, omit_defaults=True):
    """What did not hold.

    Attributes:
        check: A name of `fuzz.checks.CHECKS`.
        act: The position of the act after which it did not hold; -1 for wrapping.
        error: The type of an exception.
        where: The innermost function of the library that an exception passed through, as
            `tuners.lora.layer:merge`.
        message: One sentence: what was expected, what came, by how much.

    """

    check: str
    act: int
    message: str
    error: str | None = None
    where: str | None = None


class Outcome(_Value, frozen=True, kw_only=True, omit_defaults=True):
    """How an example ended: a failure, a documented refusal, or neither.

    Attributes:
        refused: What the library said when it clearly refused an act (a ValueError or
            NotImplementedError at wrapping, or a limit that it documents): no failure.
        absent: The method or setting that this release does not have; nothing was tried.
        acts: How many acts were carried out.

    """

    failure: Failure | None = None
    refused: str | None = None
    absent: str | None = None
    acts: int = 0
