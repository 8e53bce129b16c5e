"""Which layers an adapter can be put on, so that none is put where it is never called.

No torch at import.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ALL_BUT_GROUPED",
    "Targets",
    "bypassed_modules",
    "eligible_layers",
    "normalization_layers",
]

# Modules whose forward hands these children's weights to a function and never calls the children:
# an adapter there would get no gradient, and the model would be as if it were not there. By the
# class's qualified name, so that torchvision need not be imported to look for its classes.
# Checked against forward hooks on every classifier of torchvision, in
# tests/catalogue/test_architectures.py.
_WEIGHTS_READ: Final[dict[str, tuple[str, ...]]] = {
    "torch.nn.modules.activation.MultiheadAttention": ("out_proj",),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": ("qkv", "proj"),
}


def eligible_layers(
    model: nn.Module,
    *,
    head: str,
    grouped: bool = False,
    kinds: tuple[type[nn.Module], ...] | None = None,
) -> dict[str, nn.Module]:
    """Return the layers that adapters go on, by qualified name, in the model's order.

    These are the modules of the given kinds, Conv2d and Linear by default, but for the head, for
    convolutions with groups unless `grouped`, and for modules whose weights are read without the
    module being called (`bypassed_modules`). A layer in two places is named once.
    """
    from torch import nn  # listing names must not cost the import

    kinds = kinds or (nn.Conv2d, nn.Linear)
    bypassed = bypassed_modules(model)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        and name != head
        and name not in bypassed
        and (grouped or getattr(module, "groups", 1) == 1)
    }


def bypassed_modules(model: nn.Module) -> frozenset[str]:
    """Return the names of modules whose parent reads their weights instead of calling them.

    Known are torch's and torchvision's: in an `nn.MultiheadAttention` the output projection, in
    Swin's windowed attention both projections. What an adapter on any other such module would do
    is seen later, by the invariant `trainable_changed`.
    """
    return frozenset(
        f"{name}.{child}" if name else child
        for name, module in model.named_modules()
        for ancestor in type(module).__mro__
        for child in _WEIGHTS_READ.get(f"{ancestor.__module__}.{ancestor.__qualname__}", ())
    )


def normalization_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the normalization layers that have a weight of their own, by qualified name."""
    from torch import nn  # listing names must not cost the import
    from torch.nn.modules.batchnorm import _NormBase

    kinds = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and module.weight is not None
    }


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The rule by which a method chooses its layers; `description` stands in definitions.

    Attributes:
        grouped: whether convolutions with groups are adapted.
        linear_first: whether linear layers alone are, where there are any besides the head. Else
            convolutions are handed to the library all the same, which says itself what it makes of
            them: a release that learns to adapt them is seen.
        block_size: what must divide the inputs of an output channel, kernel included.
        most_inputs: how many of them there may be, for methods that multiply square matrices of
            that size; there is no limit where it is None.
        normalization: whether the normalization layers are adapted, and nothing else.
    """

    description: str
    grouped: bool = False
    linear_first: bool = False
    block_size: int = 1
    most_inputs: int | None = None
    normalization: bool = False

    def find(self, model: nn.Module, *, head: str) -> dict[str, nn.Module]:
        """Return the layers by qualified name, in the model's order."""
        if self.normalization:
            return normalization_layers(model)
        from torch import nn  # listing names must not cost the import

        layers = eligible_layers(model, head=head, grouped=self.grouped)
        if self.linear_first:
            linear = [n for n, layer in layers.items() if isinstance(layer, nn.Linear)]
            layers = {n: layers[n] for n in linear or layers}
        return {name: layer for name, layer in layers.items() if self._fits(_inputs(layer))}

    def _fits(self, inputs: int) -> bool:
        in_blocks = inputs % self.block_size == 0
        return in_blocks and (self.most_inputs is None or inputs <= self.most_inputs)


def _inputs(layer: nn.Module) -> int:
    """Return how many inputs one output sums over."""
    weight: Any = layer.weight
    return prod(weight.shape[1:])


ALL_BUT_GROUPED: Final = Targets(
    description="Conv2d with groups == 1 and Linear, the head excluded"
)
