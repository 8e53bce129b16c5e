"""Tell findings apart: two failures are one cause if they fail alike and need the same things.

Two failures *fail alike* if the method, the check, the kind of the act, the type of the exception
and the innermost function of the library agree. That alone is too coarse: merging a convolution
that pads by reflection and merging an adapter with a bias may break the same promise, by no
exception, for two reasons. So a cause also has what its example needs besides the plainest network
and life: its *traits*. They are read off the example after it was made as small as possible, when
whatever the failure does not need is gone.

A failing example belongs to a known cause if it fails alike and has all traits of that cause,
perhaps more: a cause that needs a padding mode also explains the failure of a network with that
padding mode and two layers. An example with two causes counts for the known one; others will show
the second one alone. Two paths to one defect (after a merge, after loading) may be two causes, so
that a second defect is never taken for the first.

Much of a library is shared by its methods, and so are the defects in it. A failure in shared code
that two other methods are known to have is not sought again for each further method: with 30 of
them, nothing else would be found. It counts as known if it is no promise of a method's own formula
that fails, and no exception out of a method's own module.

For people, one function's failures are one group, whatever the method; where no exception names a
function, those that need the same network and acts are, unless it is a method's own formula that
fails. Thus a defect in code that methods share, as in a base class, is told once.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from peft_regress.fuzz.example import (
    Add,
    Convert,
    Disable,
    Fill,
    LoadBeside,
    Merge,
    Mode,
    SaveLoad,
    Train,
    Unload,
    Weighted,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.fuzz.example import Act, Adapter, Example, Failure, Layer, Network

_NAME: Final = r"^[a-z][a-z0-9_]{0,39}\Z"
Name = Annotated[str, Meta(pattern=_NAME)]
"""The name of a method, a check or an act: it becomes part of a file's name."""

COPIES: Final = "modules_to_save"
"""The setting that all methods share."""

CRASH: Final = "crash"
"""The check that fails where the process itself ends."""

_OF_ITS_FORMULA: Final = frozenset(
    {
        "cost",
        "disabled",
        "dtype",
        "function",
        "gradient",
        "identity",
        "layout",
        "merged",
        "no_op",
        "unmerged",
    }
)
"""The checks of what a method computes by code of its own."""
_SHARED_MODULES: Final = re.compile(r"(tuners\.(tuners_utils|lycoris_utils)|utils\..*|[a-z_]+):")
"""Of the library, the modules without a method of their own."""
_ENOUGH: Final = 2
"""So many other methods show that a failure is one of shared code."""

_CONVOLUTIONS: Final = ("conv1d", "conv2d", "conv3d")
_SIZED: Final = frozenset({"target_modules", "r", "lora_alpha", "alpha", "inference_mode"})
"""Settings that nearly every adapter has: they tell no two causes apart."""
_USUAL_ACTS: Final = (Fill, Train, Mode, Add)
"""Acts that only fill an adapter, or that another trait tells."""
_COMPUTED: Final = frozenset({"cost", "function", "gradient"})
"""The checks of what a call computes, whatever filled the adapter before."""
_FILLING: Final = frozenset({"activate", "add", "enable", "fill", "mode", "train", "wrap"})
"""The acts after which an unmerged adapter computes what its parameters say."""


class Cause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes a finding one of its own.

    Attributes:
        method: As in the example.
        check: What did not hold.
        act: The kind of the act after which it did not hold: `wrap` for wrapping.
        error: The type of an exception.
        where: The innermost function of the library that it passed through.
        traits: What the smallest example needs, sorted.

    """

    method: Name
    check: Name
    act: Name
    error: str | None = None
    where: str | None = None
    traits: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return a short name without blanks, that of its file."""
        content = msgspec.json.encode(self, order="deterministic")
        return f"{self.method}-{self.check}-{hashlib.sha256(content).hexdigest()[:8]}"

    def fails_like(self, other: Cause) -> bool:
        """Return whether two causes are equal but for the traits.

        What a call costs or computes is one cause whichever act filled the adapter.
        """
        return self._failure == other._failure

    @property
    def _failure(self) -> tuple[str | None, ...]:
        return (self.method, self.check, self._stage, self.error, self.where)

    @property
    def _stage(self) -> str:
        """Return the kind of the act, or `call` if any act that fills an adapter would do."""
        is_any = self.check in _COMPUTED and self.act in _FILLING
        return "call" if is_any else self.act

    def explains(self, other: Cause) -> bool:
        """Return whether a failure of the cause `other` is one of this cause."""
        return self.fails_like(other) and set(self.traits) <= set(other.traits)

    @property
    def group(self) -> tuple[str, ...]:
        """Return what groups causes for people: equal in the methods that share a defect."""
        if self.where is not None:
            return (self.check, self.error or "", self.where)
        if self.check == "cost":  # asked at the end of a life, whatever was done in it
            return (
                self.check,
                self.method,
                *(t for t in self.traits if not t.startswith("after ")),
            )
        own = f"setting {COPIES}"
        # Each method has its own formula.
        if self.check in {"function", "gradient"} and own not in self.traits:
            return (self.check, self._stage, self.method, *self.traits)
        shared = (one for one in self.traits if one == own or not one.startswith("setting "))
        return (self.check, self._stage, *shared)


def cause_of(example: Example, failure: Failure) -> Cause:
    """Return the cause of a failure, with the traits that the example has."""
    position = failure.act
    if failure.check == "cost":  # which is looked at once, at the end of the life
        while position >= 0 and _changes_nothing(example.acts[position]):
            position -= 1
    return Cause(
        method=example.method,
        check=failure.check,
        act=act_kind(example, position),
        error=failure.error,
        where=failure.where,
        traits=traits_of(example, position),
    )


def _changes_nothing(act: Act) -> bool:
    """Return whether an act leaves the model as it was: a merge that is refused."""
    return isinstance(act, Merge) and act.broken


def is_known(cause: Cause, known: Sequence[Cause]) -> bool:
    """Return whether one of the known causes, or those of other methods, explain a failure."""
    if any(one.explains(cause) for one in known):
        return True
    if not _is_shared(cause):
        return False
    methods = {one.method for one in known if _without_method(one).explains(_without_method(cause))}
    return len(methods) >= _ENOUGH


def _is_shared(cause: Cause) -> bool:
    """Return whether a failure may be one of code that all methods share."""
    if cause.check in {*_OF_ITS_FORMULA, CRASH}:
        return False
    return cause.where is None or _SHARED_MODULES.match(cause.where) is not None


def _without_method(cause: Cause) -> Cause:
    """Return a cause without its method and the settings of that method."""
    own = f"setting {COPIES}"
    traits = tuple(one for one in cause.traits if one == own or not one.startswith("setting "))
    return msgspec.structs.replace(cause, method="any", traits=traits)


def act_kind(example: Example, position: int) -> str:
    """Return the kind of an act: `merge`, `save_load`; `wrap` for wrapping."""
    if not 0 <= position < len(example.acts):
        return "wrap"
    return kind_of(example.acts[position])


def kind_of(act: Act) -> str:
    """Return the tag of an act."""
    return str(act.__struct_config__.tag)


def traits_of(example: Example, position: int) -> tuple[str, ...]:
    """Return what an example needs besides the plainest one, up to the act at `position`."""
    return tuple(sorted(set(_traits(example, position))))


def _traits(example: Example, position: int) -> Iterator[str]:
    yield from _network_traits(example.network)
    for adapter in example.adapters:
        yield from _adapter_traits(adapter)
    if not example.autocast:
        yield "autocast_adapter_dtype=False"
    done = example.acts[: position + 1]
    if len(example.adapters) > 1 or any(isinstance(act, LoadBeside | Weighted) for act in done):
        yield "several adapters"
    if _adapter_names(example, done) & _module_names(example.network):
        yield "adapter named as a layer"
    for act in done[:-1]:
        if not isinstance(act, _USUAL_ACTS):
            yield f"after {kind_of(act)}"
    for act in done:
        yield from _act_traits(act)


def _adapter_names(example: Example, acts: Sequence[Act]) -> set[str]:
    loaded = {act.name for act in acts if isinstance(act, LoadBeside)}
    return loaded.union(adapter.name for adapter in example.adapters)


def _module_names(network: Network) -> set[str]:
    """Return the names of all modules, without those of the modules that hold them."""
    return {part for layer in network.layers for part in layer.name.split(".")}


def _act_traits(act: Act) -> Iterator[str]:
    if isinstance(act, Mode) and act.training:
        yield "training mode"
    elif isinstance(act, Train) and act.keep_optimizer:
        yield "kept optimizer"
    elif isinstance(act, Merge | Unload) and act.safe:
        yield "safe merge"
    elif isinstance(act, SaveLoad | LoadBeside) and act.trainable:
        yield "loaded to train"
    elif isinstance(act, Disable) and act.within:
        yield "disabled in a context"
    elif isinstance(act, Convert) and act.dtype is not None:
        yield "converted dtype"
    if isinstance(act, Merge):
        if act.broken:
            yield "NaN in the adapter"
        if act.adapters is not None:
            yield "merge of named adapters"


def _network_traits(network: Network) -> Iterator[str]:
    if network.dtype != "float32":
        yield "half precision"
    if network.channels_last:
        yield "channels_last"
    for layer in network.layers:
        yield from _layer_traits(layer)
    if any(_overlap(one.name, other.name) for one, other in _pairs(network.layers)):
        yield "a name that begins another name"


def _layer_traits(layer: Layer) -> Iterator[str]:
    if layer.kind in _CONVOLUTIONS:
        # A defect of all convolutions shrinks to one dimension, and explains more of them.
        yield from ("convolution", "over 2d", "over 3d")[: 1 + _CONVOLUTIONS.index(layer.kind)]
        yield from _convolution_traits(layer)
    elif layer.kind != "linear":
        yield layer.kind.replace("_", " ")
    if not layer.bias and layer.kind != "embedding":
        yield "no bias"
    if layer.kind not in {"attention", "embedding"} and layer.inputs != layer.outputs:
        yield "not square"
    if layer.by_keyword:
        yield "called by keyword"
    if layer.same_as is not None:
        yield "shared module"
    if "." in layer.name:
        yield "nested name"
    if _ODD_NAME.search(layer.name):
        yield "odd name"


_ODD_NAME: Final = re.compile(r"weight|bias|lora|default|base_layer|modules_to_save|\bmodel\b")


def _convolution_traits(layer: Layer) -> Iterator[str]:
    if layer.groups > 1:
        yield "groups"
    if layer.padding_mode != "zeros":
        yield "padding mode"
    if layer.padding == "same":
        yield "same padding"
    for name in ("stride", "dilation"):
        if any(size > 1 for size in getattr(layer, name)):
            yield name
    if len(set(layer.kernel)) > 1:
        yield "uneven kernel"
    elif all(size == 1 for size in layer.kernel):
        yield "kernel of one"


def _adapter_traits(adapter: Adapter) -> Iterator[str]:
    for name, value in adapter.settings.items():
        if name in _SIZED:
            if name == "target_modules" and isinstance(value, str):
                yield "target pattern"
        elif isinstance(value, str):
            yield f"setting {name}={value}"
        elif isinstance(value, bool):
            yield f"setting {name}" if value else f"setting {name}=False"
        else:
            yield f"setting {name}"
    if adapter.name != "default":
        yield from (["odd name"] if _ODD_NAME.search(adapter.name) else [])


def _pairs(layers: Sequence[Layer]) -> Iterator[tuple[Layer, Layer]]:
    for layer in layers:
        for other in layers:
            if layer is not other:
                yield layer, other


def _overlap(name: str, other: str) -> bool:
    return name != other and other.startswith(name) and not other.startswith(f"{name}.")
