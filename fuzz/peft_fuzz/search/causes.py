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

Acts that do the same by definition are one: leaving `disable_adapter` is enabling, whatever takes
merged weights out is unmerging, and a network that is converted to half precision is one in half
precision. A method that runs another one's layers, as DoRA runs LoRA's, has that one's causes, too.

Much of a library is shared by its methods, and so are the defects in it. A failure in shared code
that two other methods are known to have is not sought again for each further method: with 30 of
them, nothing else would be found. It counts as known if it is no promise of a method's own formula
that fails, and no exception out of a method's own module.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from peft_fuzz.acts import KINDS, AnyAct, Wrap
from peft_fuzz.acts.act import follow
from peft_fuzz.example import Example, Failure
from peft_fuzz.methods import METHODS
from peft_fuzz.networks.network import DIMENSIONS, Adapter, Layer, Network
from peft_fuzz.oracle.checks import CRASH, OF_FORMULA
from peft_fuzz.oracle.plan import Plan

COPIES: Final = "modules_to_save"
"""The setting that all methods share."""

_SIZED: Final = frozenset({"target_modules", "r", "lora_alpha", "alpha", "inference_mode"})
"""Settings that nearly every adapter has: they tell no two causes apart."""
_NAME: Final = r"^[a-z][a-z0-9_]{0,39}\Z"
Name = Annotated[str, Meta(pattern=_NAME)]
"""The name of a method, a check or an act: it becomes part of a file's name."""

_SHARED_MODULES: Final = re.compile(r"(tuners\.(tuners_utils|lycoris_utils)|utils\..*|[a-z_]+):")
"""Of the library, the modules without a method of their own."""
_SHARED_SETTINGS: Final = frozenset({f"setting {COPIES}", "setting bias=all"})
"""The settings of which the base class takes care."""
_ENOUGH: Final = 2
"""So many other methods show that a failure is one of shared code."""

_COMPUTED: Final = frozenset({"cost", "function", "gradient"})
"""The checks of what a call computes, whatever filled the adapter before."""
_WHILE_DISABLED: Final = frozenset({"disabled", "exception", CRASH})
"""The checks that fail inside a block of `disable_adapter`; the others do so after it."""
_OF_BASE_WEIGHTS: Final = frozenset({"layout", "unmerged"})
"""The checks of what the base weights are once merged adapters are taken out."""


class Cause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes a finding one of its own.

    Attributes:
        act: The kind of the act after which the check failed: `wrap` for wrapping.
        where: The innermost function of the library that an exception passed through.
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

        What a call costs or computes is one cause whichever act filled the adapter, what unmerging
        leaves is one whichever act unmerges, and what a function of the library raises is one
        whichever act calls it.
        """
        return self._failure == other._failure

    @property
    def _failure(self) -> tuple[str | None, ...]:
        return (self.method, self.check, self._stage, self.error, self.where)

    @property
    def _stage(self) -> str:
        """Return the kind of the act, or one name for those that do the same.

        That is `call` if any act that fills an adapter would do, or if a function of the library
        raises; of the cost, which is asked at the end of a life, each act that does not merge.
        """
        act = KINDS.get(self.act, AnyAct)
        if self.where is not None or (self.check in _COMPUTED and act.computes_as_filled):
            return "call"
        if self.check == "cost":
            return self.act if self.act == "merge" else "call"
        is_unmerging = act.takes_out and "after merge" in self.traits
        return "unmerge" if self.check in _OF_BASE_WEIGHTS and is_unmerging else self.act

    def explains(self, other: Cause) -> bool:
        """Return whether a failure of the cause `other` is one of this cause."""
        runner = METHODS.get(other.method)
        if runner is not None and runner.runs == self.method:
            other = msgspec.structs.replace(other, method=self.method)
        return self.fails_like(other) and set(self.traits) <= set(other.traits)

    @property
    def group(self) -> tuple[str, ...]:
        """Return what groups causes for people: equal in the methods that share a defect."""
        if self.where is not None:
            return (self.check, self.error or "", self.where)
        # Each method has its own formula.
        if self.check in _COMPUTED and f"setting {COPIES}" not in self.traits:
            return (self.check, self._stage, self.method, *self.traits)
        return (self.check, self._stage, *_shared_traits(self))


def cause_of(example: Example, failure: Failure) -> Cause:
    """Return the cause of a failure, with the traits that the example has."""
    position = failure.act
    if failure.check == "cost":  # which is looked at once, at the end of the life
        while position >= 0 and example.acts[position].changes_nothing:
            position -= 1
    done = _done(example, position, failure.check)
    return Cause(
        method=example.method,
        check=failure.check,
        act=(done[-1] if done else Wrap()).kind,
        error=failure.error,
        where=failure.where,
        traits=traits_of(example, done, is_refused=_must_be_refused(example, position)),
    )


def _must_be_refused(example: Example, position: int) -> bool:
    if not 0 <= position < len(example.acts):
        return False
    plan = Plan.start(example, ())
    for act in example.acts[:position]:
        plan = follow(plan, act)
    return example.acts[position].refusal(plan) is not None


def _done(example: Example, position: int, check: str) -> list[AnyAct]:
    """Return the acts up to the one at `position`, blocks of `disable_adapter` as two acts."""
    done: list[AnyAct] = []
    for index, act in enumerate(example.acts[: position + 1]):
        parts = act.as_others()
        done += parts[:1] if index == position and check in _WHILE_DISABLED else parts
    return done


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
    if cause.check == CRASH or cause.check in OF_FORMULA:
        return False
    return cause.where is None or _SHARED_MODULES.match(cause.where) is not None


def _without_method(cause: Cause) -> Cause:
    return msgspec.structs.replace(cause, method="any", traits=_shared_traits(cause))


def _shared_traits(cause: Cause) -> tuple[str, ...]:
    """Return the traits of a cause without the settings that one method has."""
    return tuple(
        one for one in cause.traits if one in _SHARED_SETTINGS or not one.startswith("setting ")
    )


# --- Traits ---------------------------------------------------------------------------------------


def traits_of(
    example: Example, done: Sequence[AnyAct], *, is_refused: bool = False
) -> tuple[str, ...]:
    """Return the traits of an example, sorted, with the acts that were done."""
    refused = {"a refused act"} if is_refused else set()
    return tuple(sorted({*_traits(example, done)} | refused))


def _traits(example: Example, done: Sequence[AnyAct]) -> Iterator[str]:
    yield from _network_traits(example.network)
    for adapter in example.adapters:
        yield from _adapter_traits(adapter)
    if not example.autocast:
        yield "autocast_adapter_dtype=False"
    if len(example.adapters) > 1 or any([*act.named()] for act in done):
        yield "several adapters"
    if _adapter_names(example, done) & _module_names(example.network):
        yield "adapter named as a layer"
    for act in done[:-1]:
        if not act.is_usual:
            yield f"after {act.kind}"
    for act in done:
        yield from act.traits()


def _adapter_names(example: Example, acts: Sequence[AnyAct]) -> set[str]:
    new = {name for act in acts for name in act.named()}
    return new.union(adapter.name for adapter in example.adapters)


def _module_names(network: Network) -> set[str]:
    return {part for layer in network.layers for part in layer.name.split(".")}


def _network_traits(network: Network) -> Iterator[str]:
    if network.dtype != "float32":
        yield "half precision"
    if network.channels_last:
        yield "channels_last"
    for layer in network.layers:
        yield from _layer_traits(layer)


def _layer_traits(layer: Layer) -> Iterator[str]:
    if layer.is_convolution:
        # A defect of all convolutions shrinks to one dimension, and explains more of them.
        yield from ("convolution", "over 2d", "over 3d")[: DIMENSIONS[layer.kind]]
        yield from _convolution_traits(layer)
    elif layer.kind != "linear":
        yield layer.kind.replace("_", " ")
    if not layer.bias and layer.kind != "embedding":
        yield "no bias"
    if layer.kind not in {"attention", "embedding"} and layer.inputs != layer.outputs:
        yield "not square"
    if layer.same_as is not None:
        yield "shared module"
    if "." in layer.name:
        yield "nested name"


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
