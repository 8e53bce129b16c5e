"""LoRA and DoRA through peft, on convolutions and linear layers. No torch at import."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from peft_regress.errors import UnsupportedCaseError
from peft_regress.methods.learning_rates import learning_rate
from peft_regress.methods.parts import (
    ADAMW_SETTINGS,
    check_names,
    copy_into,
    find_head,
    make_adamw,
)
from peft_regress.methods.quiet_import import import_quietly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from peft_regress.records import Json

__all__ = ["DORA", "LORA", "LowRankAdapter"]

_WRAPPED: Final = "base_model.model."
_ADAPTER: Final = "default"


@dataclass(frozen=True, kw_only=True)
class LowRankAdapter:
    """Put a low-rank adapter beside every ungrouped convolution and linear layer but the head.

    Grouped convolutions are left out, as in the paper: peft takes them only where the rank is a
    multiple of the groups, and there the adapter dwarfs the layer.

    The head is trained in full. It is unfrozen as it stands and not named in peft's
    `modules_to_save`, which keeps a second, unused copy of it and so inflates parameter counts
    and memory; in exchange its tensors are shipped here and not by peft.
    """

    name: str
    use_dora: bool
    ranks: tuple[int, ...] = (1, 4, 16)
    matrices: tuple[str, ...] = ("default",)
    trains_batch_norm_statistics: bool = False

    def hyperparameters(self, rank: int | None) -> dict[str, Json]:
        """Return all that is set by hand; alpha equals the rank, so that the scaling is 1."""
        return {
            **ADAMW_SETTINGS,
            "learning_rate": learning_rate(self.name),
            "rank": rank,
            "alpha": rank,
            "dropout": 0.0,
            "use_dora": self.use_dora,
            "targets": "Conv2d with groups == 1 and Linear, the head excluded",
            "head": "trained in full",
        }

    def adapt(self, model: nn.Module, *, head: str, rank: int | None, seed: int) -> nn.Module:
        """Wrap the model with peft; the down projections are drawn under `seed`."""
        import torch  # listing names must not cost the import

        head_module = find_head(model, head)
        targets = _eligible(model, head=head)
        if not targets:
            msg = (
                f"{self.name}: {type(model).__name__} has no Conv2d with groups == 1 and no "
                f"Linear besides its head {head!r}"
            )
            raise UnsupportedCaseError(msg)
        peft = import_quietly("peft")
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=rank,
            lora_dropout=0.0,
            # peft matches a list by suffix, a pattern by full match: only the latter is exact.
            target_modules="|".join(re.escape(name) for name in targets),
            use_dora=self.use_dora,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapted = peft.get_peft_model(model, config, adapter_name=_ADAPTER)
        head_module.requires_grad_(requires_grad=True)
        return cast("nn.Module", adapted)

    def expected_trainable(
        self, base: nn.Module, *, head: str, rank: int | None
    ) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each adapter parameter and of the head's."""
        if rank is None:
            msg = f"{self.name} needs a rank"
            raise UnsupportedCaseError(msg)
        expected: dict[str, tuple[int, ...]] = {}
        for name, weight in _eligible(base, head=head).items():
            out, *inner = weight.shape
            kernel = [1] * len(inner[1:])
            stem = f"{_WRAPPED}{name}.lora"
            expected[f"{stem}_A.{_ADAPTER}.weight"] = (rank, *inner)
            expected[f"{stem}_B.{_ADAPTER}.weight"] = (out, rank, *kernel)
            if self.use_dora:
                # One magnitude for each output channel, shaped to broadcast over the weight.
                magnitude = (1, out, *kernel) if kernel else (out,)
                expected[f"{stem}_magnitude_vector.{_ADAPTER}.weight"] = magnitude
        for name, parameter in find_head(base, head).named_parameters():
            expected[f"{_WRAPPED}{head}.{name}"] = tuple(parameter.shape)
        return expected

    def make_optimizer(self, model: nn.Module, *, rank: int | None) -> Optimizer:  # noqa: ARG002
        """Return AdamW over the adapters and the head."""
        return make_adamw(model, learning_rate=learning_rate(self.name))

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the adapter as peft would save it, and the head under its own names."""
        return {**_adapter_state(model), **_head_state(model)}

    def load_shipped(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Put shipped tensors into a freshly adapted model, the adapter through peft."""
        adapter, head = _adapter_state(model), _head_state(model)
        check_names(tensors, {**adapter, **head})
        peft = import_quietly("peft")
        peft.set_peft_model_state_dict(
            model, {name: tensors[name] for name in adapter}, adapter_name=_ADAPTER
        )
        copy_into(head, {name: tensors[name] for name in head})

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold the adapter into a copy of the base model."""
        return cast("nn.Module", cast("Any", copy.deepcopy(model)).merge_and_unload())


def _eligible(model: nn.Module, *, head: str) -> dict[str, Tensor]:
    from torch import nn

    return {
        name: module.weight
        for name, module in model.named_modules()
        if name != head
        and (
            (isinstance(module, nn.Conv2d) and module.groups == 1) or isinstance(module, nn.Linear)
        )
    }


def _adapter_state(model: nn.Module) -> dict[str, Tensor]:
    peft = import_quietly("peft")
    state = peft.get_peft_model_state_dict(
        model, adapter_name=_ADAPTER, save_embedding_layers=False
    )
    return cast("dict[str, Tensor]", state)


def _head_state(model: nn.Module) -> dict[str, Tensor]:
    return {
        name.removeprefix(_WRAPPED): parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".lora_" not in name
    }


LORA = LowRankAdapter(name="lora", use_dora=False)
DORA = LowRankAdapter(name="dora", use_dora=True)
