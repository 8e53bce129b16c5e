"""A configuration of peft, the user's own, as an adapter."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from peft_regress import registry
from peft_regress.cases import Json
from peft_regress.catalogue.methods.peft_adapter import (
    PeftAdapter,
    alters_base,
    config_defaults,
    random_start,
)
from peft_regress.measure.adapters.adapter import Adapter
from peft_regress.measure.adapters.heads import (
    PEFT_PREFIX,
    beside,
    check_untouched,
    find_heads,
    load_beside,
    save_beside,
)
from peft_regress.metrics import Numerics

if TYPE_CHECKING:
    from torch import Tensor, nn


_NAME: Final = "default"
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
    def numerics(self) -> Numerics:
        """Return those of HRA for HRA."""
        return "hra" if self._kind == "HRAConfig" else "usual"

    @property
    def _like(self) -> list[PeftAdapter]:
        """The built-in methods with the same class of configuration."""
        return [
            method
            for method in registry.items("method")
            if isinstance(method, PeftAdapter) and method.config == self._kind
        ]

    @property
    def prunes(self) -> Collection[str]:
        """Return what built-in methods of the same class prune."""
        return {part for method in self._like for part in method.prunes}

    @property
    def scales(self) -> Collection[str]:
        """Return what built-in methods of the same class scale by."""
        return {part for method in self._like for part in method.scales}

    @property
    def alters_base(self) -> bool:
        """Return whether the start takes a part of the base's weights, as PiSSA's does."""
        return alters_base(vars(self.config))

    @property
    def starts_elsewhere(self) -> str:
        """Return which setting starts the adapter away from the base's function."""
        if self.config.is_prompt_learning:
            return f"{self._kind} puts a prompt before the inputs"
        return random_start(self._kind, vars(self.config))

    @property
    def loads_for_use_only(self) -> str:
        """Return that peft refuses to load a prompt for training."""
        refusal = f"peft does not load a prompt to train on ({self._kind})"
        return refusal if self.config.is_prompt_learning else ""

    @property
    def grows_with_rank(self) -> bool:
        """Return False if peft may train as many numbers at twice the rank."""
        return self._kind not in _MAY_NOT_GROW

    def definition(self) -> Json:
        """Return the class and the fields that differ from its defaults."""
        fields = {name: value for name, value, is_default in self._fields() if not is_default}
        return {"config": self._kind, "fields": fields}

    def settings(self) -> dict[str, Json]:
        """Return the same by name, and the numbers at their defaults, such as a rank of 8."""
        fields = {
            name: value
            for name, value, is_default in self._fields()
            if not is_default or type(value) in {int, float}
        }
        return {"class": self._kind, **fields}

    def _fields(self) -> Iterator[tuple[str, Json, bool]]:
        """Yield name and value of each field, and whether it is the default."""
        for name, default in config_defaults(type(self.config)).items():
            if name not in _UNSAID:
                value = _plain(getattr(self.config, name))
                yield name, value, value == _plain(default)

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:  # noqa: ARG002  (set before)
        """Wrap the model with peft, which freezes it, and let the heads train."""
        peft = import_module("peft")
        heads = find_heads(base, self.heads)
        adapted = peft.get_peft_model(base, copy.deepcopy(self.config), adapter_name=_NAME)
        check_untouched(base, heads)
        for head in heads.values():
            head.requires_grad_(requires_grad=True)
        return cast("nn.Module", adapted)

    def adapter_parameters(self, adapted: nn.Module) -> list[str]:
        """Return the parameters that peft added, copies of whole modules left out."""
        starts = tuple(f"{PEFT_PREFIX}{head}." for head in self.heads)
        return [
            name
            for name, parameter in adapted.named_parameters()
            if parameter.requires_grad
            and ".modules_to_save." not in name
            and not name.startswith(starts)
        ]

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the adapter as peft would save it, the heads, and statistics that may move."""
        return {**_adapter_state(model), **self._beside(model)}

    def _beside(self, model: nn.Module) -> dict[str, Tensor]:
        return beside(model, self.heads, PEFT_PREFIX, self.moving)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the adapter as peft does, and the rest beside it."""
        cast("Any", model).save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # a model card without content
        save_beside(self._beside(model), folder)

    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        """Load the adapter as peft does, and the rest beside it."""
        peft = import_module("peft")
        heads = find_heads(base, self.heads)
        adapted = peft.PeftModel.from_pretrained(
            base, folder, adapter_name=_NAME, is_trainable=trainable
        )
        for head in heads.values():
            head.requires_grad_(requires_grad=trainable)
        load_beside(self._beside(adapted), folder)
        return cast("nn.Module", adapted)

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        """Return peft's own context in which the adapter is off."""
        return cast("AbstractContextManager[None]", cast("Any", model).disable_adapter())

    def merge(self, model: nn.Module) -> nn.Module | None:
        """Fold the adapter into a copy of the base; None if this kind of adapter has no merge."""
        tuner = getattr(model, "base_model", None)
        if self.config.is_prompt_learning or not hasattr(tuner, "merge_and_unload"):
            return None
        try:
            return cast("nn.Module", cast("Any", copy.deepcopy(model)).merge_and_unload())
        except NotImplementedError:
            return None

    def doubled(self) -> ConfigAdapter | None:
        """Return the configuration with every rank doubled; None if it has no rank."""
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


def _adapter_state(model: nn.Module) -> dict[str, Tensor]:
    peft = import_module("peft")
    state = peft.get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    return cast("dict[str, Tensor]", state)


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
