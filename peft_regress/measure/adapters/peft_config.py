"""A configuration of peft, the user's own, as an adapter."""

# ruff: noqa: D102  (`Adapter` says what each returns)

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Self, cast

from torch import Tensor, nn

from peft_regress import registry
from peft_regress.cases import Json
from peft_regress.catalogue.methods import peft_adapter
from peft_regress.catalogue.methods.adapter_shapes import ADAPTER
from peft_regress.catalogue.methods.peft_adapter import PeftAdapter
from peft_regress.measure.adapters import heads
from peft_regress.measure.adapters.adapter import Adapter, Traits

# Written by peft itself, or of no consequence for what is computed.
_UNSAID: Final = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
}
# Their `r` counts the blocks of a rotation: twice as many are smaller.
_COUNT_BLOCKS: Final = {"OFTConfig"}
# They train a whole matrix where the rank is half its size or more.
_MAY_NOT_GROW: Final = {"LoKrConfig", "TinyLoraConfig", "UniLoraConfig"}


@dataclass(frozen=True, kw_only=True)
class ConfigAdapter(Adapter):
    """Puts the configured adapter on a model, and trains the heads with it; see `Adapter`."""

    config: Any

    @property
    def _kind(self) -> str:
        return type(self.config).__name__

    @property
    def traits(self) -> Traits:
        kind, fields = self._kind, vars(self.config)
        alike = [
            method
            for method in registry.items("method")
            if isinstance(method, PeftAdapter) and method.config == kind
        ]
        elsewhere, for_use_only = peft_adapter.random_start(kind, fields), ""
        if self.config.is_prompt_learning:
            elsewhere = f"{kind} puts a prompt before the inputs"
            for_use_only = f"peft does not load a prompt to train on ({kind})"
        return Traits(
            numerics="hra" if kind == "HRAConfig" else "usual",
            prunes={part for method in alike for part in method.prunes},
            scales={part for method in alike for part in method.scales},
            alters_base=peft_adapter.alters_base(fields),
            starts_elsewhere=elsewhere,
            loads_for_use_only=for_use_only,
            grows_with_rank=kind not in _MAY_NOT_GROW,
        )

    def definition(self) -> Json:
        fields = {name: value for name, value, is_default in self._fields() if not is_default}
        return {"config": self._kind, "fields": fields}

    def settings(self) -> dict[str, Json]:
        fields = {
            name: value
            for name, value, is_default in self._fields()
            if not is_default or type(value) in {int, float}
        }
        return {"class": self._kind, **fields}

    def _fields(self) -> Iterator[tuple[str, Json, bool]]:
        for name, default in peft_adapter.config_defaults(type(self.config)).items():
            if name not in _UNSAID:
                value = _plain(getattr(self.config, name))
                yield name, value, value == _plain(default)

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:  # noqa: ARG002  (set before)
        beside = heads.find_heads(base, self.heads)
        adapted = import_module("peft").get_peft_model(
            base, copy.deepcopy(self.config), adapter_name=ADAPTER
        )
        heads.check_untouched(base, beside)
        for head in beside.values():
            head.requires_grad_(requires_grad=True)
        return cast("nn.Module", adapted)

    def adapter_parameters(self, adapted: nn.Module) -> list[str]:
        starts = tuple(f"{heads.PEFT_PREFIX}{head}." for head in self.heads)
        return [
            name
            for name, parameter in adapted.named_parameters()
            if parameter.requires_grad
            and ".modules_to_save." not in name
            and not name.startswith(starts)
        ]

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        return {**peft_adapter.adapter_state(model), **self._beside(model)}

    def _beside(self, model: nn.Module) -> dict[str, Tensor]:
        return heads.beside(model, self.heads, self.moving)

    def save(self, model: nn.Module, folder: Path) -> None:
        cast("Any", model).save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # a model card without content
        heads.save_beside(self._beside(model), folder)

    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        beside = heads.find_heads(base, self.heads)
        adapted = import_module("peft").PeftModel.from_pretrained(
            base, folder, adapter_name=ADAPTER, is_trainable=trainable
        )
        for head in beside.values():
            head.requires_grad_(requires_grad=trainable)
        heads.load_beside(self._beside(adapted), folder)
        return cast("nn.Module", adapted)

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        return cast("AbstractContextManager[None]", cast("Any", model).disable_adapter())

    def merge(self, model: nn.Module) -> nn.Module | None:
        tuner = getattr(model, "base_model", None)
        if self.config.is_prompt_learning or not hasattr(tuner, "merge_and_unload"):
            return None
        try:
            return cast("nn.Module", cast("Any", copy.deepcopy(model)).merge_and_unload())
        except NotImplementedError:
            return None

    def doubled(self) -> Self | None:
        rank = getattr(self.config, "r", None)
        counts_blocks = self._kind in _COUNT_BLOCKS
        if counts_blocks or not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            return None
        twice = copy.deepcopy(self.config)
        for name in ("r", "init_r", "target_r"):  # AdaLoRA starts at another rank than it ends
            if hasattr(twice, name):
                setattr(twice, name, 2 * getattr(twice, name))
        pattern = getattr(twice, "rank_pattern", None) or {}
        if pattern:
            twice.rank_pattern = {name: 2 * value for name, value in pattern.items()}
        return dataclasses.replace(self, config=twice)


def _plain(value: Any) -> Json:
    """Return a setting as JSON; the order of a set or of a list of targets means nothing."""
    if isinstance(value, Enum):
        return cast("Json", value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in sorted(value.items(), key=str)}
    if isinstance(value, set | frozenset | list | tuple):
        plain = [_plain(item) for item in value]
        return sorted(plain, key=str) if isinstance(value, set | frozenset | list) else plain
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
