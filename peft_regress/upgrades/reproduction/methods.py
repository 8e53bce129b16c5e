"""Write the piece of a script that adapts the model, for each kind of method.

No torch at import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from textwrap import indent
from typing import TYPE_CHECKING, Final

from peft_regress.cases import BFLOAT16_SUFFIX
from peft_regress.catalogue.architectures.torchvision_models import TorchvisionModel
from peft_regress.catalogue.methods import GaLore, Method, PeftAdapter, Selective
from peft_regress.catalogue.methods.targets import Targets, bypassed_modules
from peft_regress.errors import UnsupportedCaseError
from peft_regress.upgrades.reproduction import method_sections as sections
from peft_regress.upgrades.reproduction.sections import fill_in, source

if TYPE_CHECKING:
    from torch import nn


_LONGEST: Final = 93  # columns of a condition, on a line of 100
_NORMALIZATION: Final = "(nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)"
_CONVOLUTION_OR_LINEAR: Final = "isinstance(module, (nn.Conv2d, nn.Linear))"
# By the configuration's class: code that must run before wrapping.
_BEFORE_WRAPPING: Final[dict[str, str]] = {"BOFTConfig": sections.WITHOUT_CUDA_EXTENSION}
# Of the methods with an optimizer of their own, by name.
_OPTIMIZERS: Final[dict[str, str]] = {
    "adalora": sections.ADALORA,
    "loraplus": sections.LORA_PLUS,
    "lorafa": sections.LORA_FA,
}
_SELECTIONS: Final[dict[str, str]] = {
    "all": sections.SELECT_ALL,
    "head": sections.SELECT,
    "biases": sections.SELECT + sections.SELECT_BIASES,
    "normalization": sections.SELECT + sections.SELECT_NORMALIZATION,
}


@dataclass(frozen=True, kw_only=True)
class Network:
    """An architecture of torchvision, with its model without weights, which the rules inspect."""

    architecture: TorchvisionModel
    model: nn.Module

    @classmethod
    def of(cls, architecture: TorchvisionModel) -> Network:
        """Build the model; without weights even the largest needs almost no memory."""
        from peft_regress.catalogue.architectures.output_layer import without_weights

        with without_weights():
            model = architecture.build(num_classes=10, seed=0)
        return cls(architecture=architecture, model=model)

    @property
    def head(self) -> str:
        """The qualified name of the last layer."""
        return self.architecture.head

    @property
    def has_batch_norm(self) -> bool:
        """Whether it has batch normalization."""
        from torch import nn

        return any(isinstance(module, nn.BatchNorm2d) for module in self.model.modules())

    @property
    def has_grouped(self) -> bool:
        """Whether it has convolutions with groups."""
        return any(getattr(module, "groups", 1) > 1 for module in self.model.modules())


def package_of(method: Method) -> str | None:
    """Return the library that a method uses besides torch, if its kind is known."""
    return {PeftAdapter: "peft", GaLore: "galore-torch"}.get(type(method))


def adapting(method: Method, rank: int | None, network: Network) -> str | None:
    """Return the code that adapts `model` as the method does; None if that is not known."""
    # By exact class: what a derived class does is not known here.
    if type(method) is PeftAdapter:
        return _wrapping(method, rank, network)
    if type(method) is Selective:
        return _selecting(method, network)
    if type(method) is GaLore:
        return _projecting(method, rank)
    return None


def filling(method: PeftAdapter, rank: int | None, network: Network) -> str:
    """Return the code that fills an adapter with seeded numbers, as `filled_losses` does."""
    layers = method.targets.find(network.model, heads=(network.head,)).values()
    names = {name for layer in layers for name in method.shapes(layer, rank or 0)}
    parts = sorted({f".{name.partition('.')[0]}." for name in names})
    code = sections.FILL_BY_FAN_IN
    if method.scales:
        only_scales = set(parts) <= set(method.scales)
        code = sections.FILL_ONLY_SCALES if only_scales else sections.FILL_BY_SCALE
    filling_one = fill_in(code, SCALES="".join(method.scales))
    return fill_in(
        sections.FILL,
        PARTS=source(tuple(parts)),
        FILLING=indent(filling_one, " " * 12),
    )


def optimizing(method: Method, rank: int | None) -> str | None:
    """Return the code that makes `optimizer`; None if the method has an unknown one."""
    own = getattr(method, "optimizer", None)
    name = method.name.removesuffix(BFLOAT16_SUFFIX)
    code = sections.ADAMW if own is None else _OPTIMIZERS.get(name)
    if code is None or type(method) not in {PeftAdapter, Selective, GaLore}:
        return None
    return fill_in(code, RATE=repr(method.learning_rate), RANK=repr(rank))


def _wrapping(method: PeftAdapter, rank: int | None, network: Network) -> str | None:
    before = _BEFORE_WRAPPING.get(method.config, "")
    layers = method.targets.find(network.model, heads=(network.head,))
    if not layers or (method.wrapping is not nullcontext and not before):
        return None
    settings = (
        f"        {name}={source(value)},\n" for name, value in method.settings(rank).items()
    )
    return fill_in(
        sections.WRAP,
        RULE=_condition(list(_rule(method.targets, network, layers))),
        BEFORE=before,
        CONFIG=method.config,
        SETTINGS="".join(settings),
        HEAD=network.head,
        FREEZE=fill_in(sections.FREEZE, PART=method.frozen) if method.frozen else "",
    )


def _condition(parts: list[str]) -> str:
    """Return the conjunction of conditions, on one line if it fits and has no comment."""
    line = " and ".join(parts)
    return line if len(line) <= _LONGEST and "#" not in line else "\n    and ".join(parts)


def _rule(targets: Targets, network: Network, layers: Mapping[str, nn.Module]) -> Iterator[str]:
    """Yield the conditions under which a module of the network is one of its targets."""
    from torch import nn

    if targets.normalization:
        yield f"isinstance(module, {_NORMALIZATION})"
        return
    # `linear_first` means: only linear layers, if the network has any.
    only_linear = targets.linear_first and any(
        isinstance(layer, nn.Linear) for layer in layers.values()
    )
    yield "isinstance(module, nn.Linear)" if only_linear else _CONVOLUTION_OR_LINEAR
    yield f'name != "{network.head}"'
    for child in sorted({name.rpartition(".")[2] for name in bypassed_modules(network.model)}):
        yield f'not name.endswith(".{child}")  # its weight is read, it is never called'
    if not targets.grouped and network.has_grouped and not only_linear:
        yield 'getattr(module, "groups", 1) == 1'
    if not targets.ungrouped:
        yield 'getattr(module, "groups", 1) > 1'
    if targets.block_size > 1:
        yield f"module.weight[0].numel() % {targets.block_size} == 0"
    if targets.most_inputs is not None:
        yield f"module.weight[0].numel() <= {targets.most_inputs}"


def _selecting(method: Selective, network: Network) -> str | None:
    try:
        method.adapt(network.model, heads=(network.head,), rank=None, seed=0)
    except UnsupportedCaseError:
        return None
    code = _SELECTIONS[method.trains]
    if method.trains_batch_norm_statistics:
        code += sections.FOLLOW_STATISTICS
    return fill_in(code, HEAD=network.head, NORMALIZATION=_NORMALIZATION)


def _projecting(method: GaLore, rank: int | None) -> str:
    settings = {
        "rank": rank,
        "update_proj_gap": method.update_proj_gap,
        "scale": method.scale,
        "proj_type": method.proj_type,
    }
    return fill_in(
        sections.GALORE,
        CLONE=sections.CLONE if method.clones_projection else "",
        SETTINGS=source(settings),
        RATE=repr(method.learning_rate),
    )
