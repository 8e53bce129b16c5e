"""Find the layers that an adapter can wrap: all that are called. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

from peft_regress.errors import InputError, UnsupportedCaseError

if TYPE_CHECKING:
    from torch import nn

# Modules whose forward passes the weights of these children to a function and never calls the
# children: an adapter there would get no gradient and change nothing. By the class's qualified
# name, so that torchvision need not be imported. tests/catalogue/test_architectures.py checks the
# table with forward hooks on every classifier of torchvision.
_WEIGHTS_READ: Final[dict[str, tuple[str, ...]]] = {
    "torch.nn.modules.activation.MultiheadAttention": ("out_proj",),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": ("qkv", "proj"),
}


def find_heads(model: nn.Module, heads: tuple[str, ...]) -> list[nn.Module]:
    """Return the heads by their qualified names; raises `InputError` for one that cannot train."""
    found = []
    for name in heads:
        try:
            found.append(model.get_submodule(name))
        except AttributeError:
            known = ", ".join(child for child, _ in model.named_children())
            problem = f"also_train: {type(model).__name__} has no module {name!r}; it has {known}"
            raise InputError(problem) from None
        if next(found[-1].parameters(), None) is None:
            raise InputError(f"also_train: module {name!r} has no parameters to train")
    return found


def head_parameters(model: nn.Module, heads: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Return all parameters of the heads, under the model's names and in its order.

    By identity: a parameter that a head shares has the name of its first place, as it has in
    `named_parameters`. Raises `InputError` if the model has no such module.
    """
    of_heads = {id(p) for head in find_heads(model, heads) for p in head.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) in of_heads}


def bypassed_modules(model: nn.Module) -> frozenset[str]:
    """Return the names of modules whose parent reads their weights instead of calling them.

    Covers torch's and torchvision's: the output projection of `nn.MultiheadAttention` and both
    projections of Swin's windowed attention. The invariant `trainable_changed` finds others.
    """
    return frozenset(
        f"{name}.{child}" if name else child
        for name, module in model.named_modules()
        for ancestor in type(module).__mro__
        for child in _WEIGHTS_READ.get(f"{ancestor.__module__}.{ancestor.__qualname__}", ())
    )


def _modules_in(model: nn.Module, heads: tuple[str, ...]) -> set[int]:
    """Return the identities of the heads and of all modules in them, however else they are named.

    A layer that a head shares with the rest of the model trains in full with the head.
    """
    return {id(module) for head in find_heads(model, heads) for module in head.modules()}


def normalization_layers(model: nn.Module, *, heads: tuple[str, ...]) -> dict[str, nn.Module]:
    """Return the normalization layers that have a weight and are in no head, by qualified name."""
    from torch import nn  # listing names must not cost the import
    from torch.nn.modules.batchnorm import _NormBase

    types = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    in_heads = _modules_in(model, heads)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, types) and id(module) not in in_heads and module.weight is not None
    }


def no_targets(
    method: str, model: nn.Module, *, targets: str, heads: tuple[str, ...]
) -> UnsupportedCaseError:
    """Return the error for a model that has none of a method's targets."""
    named = ", ".join(map(repr, heads)) or "none"
    return UnsupportedCaseError(
        f"{method}: {type(model).__name__} has none of its targets, {targets} (head: {named})"
    )


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The rule by which a method chooses its layers: Conv2d and Linear modules that are called."""

    description: str
    """Part of definitions."""
    grouped: bool = False
    """Whether convolutions with groups are adapted."""
    ungrouped: bool = True
    """Whether any other layers are."""
    linear_first: bool = False
    """Whether only linear layers are adapted, if the model has any besides the head. Otherwise the
    library gets convolutions and decides: a release that learns to adapt them is noticed."""
    block_size: int = 1
    """A divisor of the inputs of an output channel, kernel included."""
    most_inputs: int | None = None
    """The most such inputs, for methods that multiply square matrices of that size."""
    normalization: bool = False
    """Whether the normalization layers are adapted, and nothing else."""

    def find(self, model: nn.Module, *, heads: tuple[str, ...]) -> dict[str, nn.Module]:
        """Return the layers by qualified name, in the model's order, without those in a head.

        A shared layer has one name. Raises `InputError` if the model has no such head.
        """
        if self.normalization:
            return normalization_layers(model, heads=heads)
        from torch import nn  # listing names must not cost the import

        bypassed, in_heads = bypassed_modules(model), _modules_in(model, heads)
        layers: dict[str, Any] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
            and id(module) not in in_heads
            and name not in bypassed
            and (self.ungrouped if getattr(module, "groups", 1) == 1 else self.grouped)
        }
        if self.linear_first:
            linear = {n: layer for n, layer in layers.items() if isinstance(layer, nn.Linear)}
            layers = linear or layers
        return {name: layer for name, layer in layers.items() if self._fits(layer.weight)}

    def _fits(self, weight: Any) -> bool:
        inputs = prod(weight.shape[1:])  # that one output sums
        in_blocks = inputs % self.block_size == 0
        return in_blocks and (self.most_inputs is None or inputs <= self.most_inputs)


ALL_BUT_GROUPED: Final = Targets(
    description="Conv2d with groups == 1 and Linear, the head excluded"
)
