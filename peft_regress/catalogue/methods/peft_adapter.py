"""A method of peft on convolutions and linear layers, of which `adapters` has a table.

No torch at import.
"""

from __future__ import annotations

import copy
import re
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from peft_regress.catalogue.methods.adapter_shapes import ADAPTER, Shapes
from peft_regress.catalogue.methods.learning_rates import learning_rate
from peft_regress.catalogue.methods.parts import (
    ADAMW_SETTINGS,
    check_names,
    find_head,
    load_tensors,
    make_adamw,
    no_targets,
    save_tensors,
)
from peft_regress.catalogue.methods.quiet_import import import_quietly
from peft_regress.catalogue.methods.targets import ALL_BUT_GROUPED, Targets
from peft_regress.errors import InputError, UnsupportedCaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from peft_regress.cases import Json
    from peft_regress.catalogue.methods.protocol import BaseDtype

__all__ = ["PeftAdapter"]

_WRAPPED: Final = "base_model.model."
_ADAPTER_FILE: Final = "adapter_model.safetensors"
_HEAD_FILE: Final = "head.safetensors"
_DEFINITION_NAMES: Final = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}


@dataclass(frozen=True, kw_only=True)
class PeftAdapter:
    """Put an adapter of peft on the layers of a rule, and train it together with the head.

    The head is trained in full. It is unfrozen as it stands and not named in peft's
    `modules_to_save`, which keeps a second, unused copy of it and so inflates parameter counts
    and memory; in exchange its tensors are shipped here and not by peft.

    Attributes:
        config: the name of peft's configuration class.
        settings: its arguments for a rank, the targets left out.
        shapes: name and shape of each parameter added to a layer, for the layer and the rank.
        targets: the layers that are adapted.
        optimizer: makes the optimizer where it is not AdamW over what trains.
        frozen: a part of the names of adapter parameters that do not train.
        prunes: the parts of the names of parameters that the method itself sets to zero.
        wrapping: what wrapping is done under, where the library needs to be kept from something.
        alters_base: whether wrapping alters the base's weights.
        scales: the parts of the names of adapter parameters that scale what is there.
    """

    name: str
    config: str
    settings: Callable[[int | None], Mapping[str, Json]]
    shapes: Callable[[nn.Module, int], Shapes]
    targets: Targets = ALL_BUT_GROUPED
    ranks: tuple[int, ...] = (4,)
    matrices: tuple[str, ...] = ("extended",)
    base_dtype: BaseDtype = "float32"
    trains_batch_norm_statistics: bool = False
    optimizer: Callable[[nn.Module, int | None, float], Optimizer] | None = None
    optimizer_settings: Mapping[str, Json] | None = None
    frozen: str | None = None
    prunes: tuple[str, ...] = ()
    wrapping: Callable[[], AbstractContextManager[None]] = nullcontext
    alters_base: bool = False
    scales: tuple[str, ...] = ()

    def hyperparameters(self, rank: int | None) -> dict[str, Json]:
        """Return all that is set by hand, in peft's names but for rank, alpha and dropout."""
        # What defines the methods of LoRA's class stays as it was before there were others.
        of_config = {} if self.config == "LoraConfig" else {"config": self.config}
        of_base = {} if self.base_dtype == "float32" else {"base_dtype": self.base_dtype}
        settings = {
            _DEFINITION_NAMES.get(name, name): value for name, value in self.settings(rank).items()
        }
        return {
            **(self.optimizer_settings or ADAMW_SETTINGS),
            "learning_rate": learning_rate(self.name),
            "rank": rank,
            **settings,
            "targets": self.targets.description,
            "head": "trained in full",
            **of_config,
            **of_base,
        }

    def adapt(self, model: nn.Module, *, head: str, rank: int | None, seed: int) -> nn.Module:
        """Wrap the model with peft; what is drawn is drawn under `seed`."""
        import torch  # listing names must not cost the import

        self._check_rank(rank)
        head_module = find_head(model, head)
        layers = self.targets.find(model, head=head)
        if not layers:
            raise no_targets(self.name, model, targets=self.targets.description, head=head)
        peft = import_quietly("peft")
        make_config = getattr(peft, self.config, None)
        if make_config is None:
            msg = f"{self.name}: peft {peft.__version__} has no {self.config}"
            raise UnsupportedCaseError(msg)
        # peft matches a list by suffix, a pattern by full match: only the latter is exact.
        pattern = "|".join(re.escape(name) for name in layers)
        config = make_config(target_modules=pattern, **self.settings(rank))
        with torch.random.fork_rng(devices=[]), self.wrapping():
            torch.manual_seed(seed)
            adapted = peft.get_peft_model(model, config, adapter_name=ADAPTER)
        self._set_trained(adapted, head_module, head_trains=True)
        return cast("nn.Module", adapted)

    def _set_trained(self, adapted: nn.Module, head: nn.Module, *, head_trains: bool) -> None:
        """Set what peft leaves to its users: the head, and what a method freezes of its own."""
        if self.frozen is not None:
            for name, parameter in adapted.named_parameters():
                if self.frozen in name:
                    parameter.requires_grad = False
        head.requires_grad_(requires_grad=head_trains)

    def expected_trainable(
        self, base: nn.Module, *, head: str, rank: int | None
    ) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each adapter parameter and of the head's."""
        self._check_rank(rank)
        expected = {
            f"{_WRAPPED}{name}.{parameter}": shape
            for name, layer in self.targets.find(base, head=head).items()
            for parameter, shape in self.shapes(layer, rank or 0).items()
        }
        for name, parameter in find_head(base, head).named_parameters():
            expected[f"{_WRAPPED}{head}.{name}"] = tuple(parameter.shape)
        return expected

    def _check_rank(self, rank: int | None) -> None:
        if self.ranks and rank is None:
            msg = f"{self.name} needs a rank, for instance {self.ranks[0]}"
            raise InputError(msg)

    def make_optimizer(self, model: nn.Module, *, rank: int | None) -> Optimizer:
        """Return the method's optimizer, or AdamW, over the adapters and the head."""
        rate = learning_rate(self.name)
        if self.optimizer is None:
            return make_adamw(model, learning_rate=rate)
        return self.optimizer(model, rank, rate)

    def projections(
        self,
        optimizer: Optimizer,  # noqa: ARG002  (protocol)
    ) -> Mapping[str, Tensor]:
        """Return nothing: gradients are taken as they are."""
        return {}

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the adapter as peft would save it, and the head under its own names."""
        return {**_adapter_state(model), **_head_state(model)}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the adapter as peft does, and the head beside it."""
        # Its default would look at the hub for embeddings that a vision model has none of.
        cast("Any", model).save_pretrained(
            folder, selected_adapters=[ADAPTER], save_embedding_layers=False
        )
        (folder / "README.md").unlink(missing_ok=True)  # a model card without content
        save_tensors(_head_state(model), folder / _HEAD_FILE)

    def load(self, base: nn.Module, folder: Path, *, head: str, trainable: bool) -> nn.Module:
        """Load the adapter as peft does, and the head beside it."""
        import torch
        from safetensors.torch import load_file

        peft = import_quietly("peft")
        head_module = find_head(base, head)
        with torch.random.fork_rng(devices=[]), self.wrapping():
            torch.manual_seed(0)
            adapted = peft.PeftModel.from_pretrained(
                base, folder, adapter_name=ADAPTER, is_trainable=trainable
            )
        # peft says nothing of a tensor that it finds no place for, or no tensor for.
        check_names(load_file(folder / _ADAPTER_FILE), _adapter_state(adapted))
        self._set_trained(adapted, head_module, head_trains=trainable)
        of_head = {f"{head}.{name}": p.detach() for name, p in head_module.named_parameters()}
        load_tensors(of_head, folder / _HEAD_FILE)
        return cast("nn.Module", adapted)

    def disabled(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return peft's own context in which the adapter is off."""
        return cast("AbstractContextManager[None]", cast("Any", model).disable_adapter())

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold the adapter into a copy of the base model."""
        return cast("nn.Module", cast("Any", copy.deepcopy(model)).merge_and_unload())


def _adapter_state(model: nn.Module) -> dict[str, Tensor]:
    peft = import_quietly("peft")
    state = peft.get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    return cast("dict[str, Tensor]", state)


def _head_state(model: nn.Module) -> dict[str, Tensor]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    # By the layer and not by the name: what peft trains in a layer, by its design or not, it saves
    # or leaves out itself.
    adapted = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, BaseTunerLayer)
        for parameter in module.parameters()
    }
    return {
        name.removeprefix(_WRAPPED): parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in adapted
    }
