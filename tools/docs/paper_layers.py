"""Which layers the paper's rows of an adapter are of, found by leaving kinds of layers out.

The paper does not say. On resnet18 and mobilenet_v2 the choice is small: every layer besides the
head is a convolution. mobilenet_v3_small has a linear layer before its head, and squeeze-and-excite
layers.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, get_args

from peft_regress import registry
from peft_regress.catalogue.methods.targets import ALL_BUT_GROUPED, Targets

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from torch import nn

    from peft_regress.catalogue.methods import PeftAdapter
    from peft_regress.measure.recipe import ModelRecipe

__all__ = [
    "CONVOLUTIONS",
    "Kind",
    "LayerChoice",
    "choices",
    "kind_of",
    "recipe_without",
]

Kind = Literal["stem", "pointwise", "squeeze-excite", "hidden linear"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class LayerChoice(Targets):
    """The ungrouped convolutions and linear layers without those of some kinds."""

    without: AbstractSet[Kind]

    def find(self, model: nn.Module, *, heads: tuple[str, ...]) -> dict[str, nn.Module]:
        """Return the layers by qualified name."""
        found = ALL_BUT_GROUPED.find(model, heads=heads)
        return {
            name: layer for name, layer in found.items() if kind_of(name, layer) not in self.without
        }


def kind_of(name: str, layer: nn.Module) -> Kind:
    """Return what a layer of a network is, by its own name and place."""
    from torch import nn  # pytest lists the figures without it

    if isinstance(layer, nn.Linear):
        return "hidden linear"
    if isinstance(layer, nn.Conv2d) and layer.in_channels == 3:  # an image's
        return "stem"
    # torchvision's names in `SqueezeExcitation`.
    return "squeeze-excite" if name.endswith((".fc1", ".fc2")) else "pointwise"


CONVOLUTIONS: Final = LayerChoice(
    description="Conv2d with groups == 1", without=frozenset({"hidden linear"})
)
"""What the paper adapts."""


@cache
def recipe_without(
    architecture: str, method: str, rank: int, without: AbstractSet[Kind]
) -> ModelRecipe:
    """Return an adapter on a network without those layers."""
    from peft_regress.measure.recipe import ModelRecipe

    adapter: PeftAdapter = registry.get("method", method)
    choice = LayerChoice(description="", without=without)
    return ModelRecipe(
        method=replace(adapter, targets=choice),
        architecture=registry.get("architecture", architecture),
        rank=rank,
    )


def choices() -> list[frozenset[Kind]]:
    """Return every choice of kinds to leave out, but all of them."""
    return [
        frozenset(kinds)
        for size in range(len(KINDS))
        for kinds in itertools.combinations(KINDS, size)
    ]
