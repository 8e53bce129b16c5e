"""Methods that train a part of the model itself, without an adapter. No torch at import."""

# ruff: noqa: D102  (`Method` says what each returns)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from peft_regress.cases import Json
from peft_regress.catalogue.methods.method import Method, Shapes, whole_state
from peft_regress.catalogue.methods.targets import head_parameters, no_targets, normalization_layers
from peft_regress.errors import UnsupportedCaseError

if TYPE_CHECKING:
    from torch import Tensor, nn

_BATCH_NORM_MOMENTUM: Final = 0.1
_TARGETS: Final = {"biases": "biases", "normalization": "normalization layers with a weight"}


@dataclass(frozen=True, kw_only=True)
class Selective(Method):
    """Train everything, or only the heads, or these with the biases or normalization layers.

    Heads and biases are BitFit; in CNNs whose convolutions have no biases, these are the biases of
    the normalization layers.

    With `trains_batch_norm_statistics` the running mean and variance of every BatchNorm follow the
    target data in the forward pass, while weight and bias stay frozen: the paper's BN+H. All use
    torch's usual momentum; mobilenet_v3_small's own is 0.01 and would keep most of the source's
    statistics in a short run.
    """

    trains: Literal["all", "head", "biases", "normalization"]

    def hyperparameters(self) -> dict[str, Json]:
        momentum = _BATCH_NORM_MOMENTUM if self.trains_batch_norm_statistics else None
        own: dict[str, Json] = {"trains": self.trains, "batch_norm_momentum": momentum}
        return {**super().hyperparameters(), **own}

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:  # noqa: ARG002
        """Set what trains, in place; nothing is drawn at random.

        Raises `UnsupportedCaseError` if only the heads would train, since that is another method,
        or nothing at all.
        """
        trained = self._trained(base)
        if not trained:
            problem = f"{self.name} trains only a head, and no head with parameters is named"
            raise UnsupportedCaseError(problem)
        for name, parameter in base.named_parameters():
            parameter.requires_grad = name in trained
        if self.trains_batch_norm_statistics:
            set_batch_norm_momentum(base, _BATCH_NORM_MOMENTUM)
        return base

    def expected_trainable(self, base: nn.Module) -> Shapes:
        trained = self._trained(base)
        return {n: tuple(p.shape) for n, p in base.named_parameters() if n in trained}

    def _trained(self, model: nn.Module) -> set[str]:
        """Return the names of the parameters that train. Raises `UnsupportedCaseError`."""
        of_heads = head_parameters(model, self.heads).keys()
        names = {name for name, _ in model.named_parameters()}
        if self.trains == "all":
            return names
        if self.trains == "head":
            return {*of_heads}
        if self.trains == "biases":
            # Also `in_proj_bias` of an attention, but not Swin's table of relative positions.
            found = {name for name in names if name.rpartition(".")[2].endswith("bias")}
        else:
            layers = normalization_layers(model, heads=self.heads)
            found = {name for name in names if name.rpartition(".")[0] in layers}
        if not found - of_heads:
            raise no_targets(self.name, model, targets=_TARGETS[self.trains], heads=self.heads)
        return found | of_heads

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return all parameters and buffers, or what trains and, if they change, the statistics."""
        shipped = {**super().shipped_tensors(model)}
        if self.trains == "all":
            shipped |= whole_state(model)
        if self.trains_batch_norm_statistics:
            # The count of batches matters only for a momentum of None; inference never reads it.
            ends = (".running_mean", ".running_var")
            shipped |= {name: one for name, one in model.named_buffers() if name.endswith(ends)}
        return shipped


def set_batch_norm_momentum(model: nn.Module, momentum: float | None) -> None:
    """Set how fast the running statistics of every BatchNorm follow the batches; None: averages."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = momentum


FULL = Selective(name="full", learning_rate=4e-4, trains="all")
HEAD = Selective(name="head", learning_rate=1e-2, trains="head", float32_numerics="head")
FULL_BF16 = replace(FULL, name="full-bf16", base_dtype="bfloat16", matrices=("extended",))
BITFIT = Selective(name="bitfit", learning_rate=4e-3, trains="biases", matrices=("extended",))
BITFIT_BF16 = replace(BITFIT, name="bitfit-bf16", base_dtype="bfloat16", matrices=())
NORM = Selective(name="norm", learning_rate=4e-3, trains="normalization", matrices=("extended",))
NORM_BF16 = replace(NORM, name="norm-bf16", base_dtype="bfloat16", matrices=())
BN_HEAD = Selective(
    name="bn_head",
    learning_rate=5e-3,
    trains="head",
    trains_batch_norm_statistics=True,
    float32_numerics="bn_head",
)
