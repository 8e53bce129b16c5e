"""What a case puts on its model: a built-in method, a configuration of peft, or a callable."""

# ruff: noqa: D102  (`Method` says what each returns)

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any, ClassVar, Final, Self, cast

import torch
from torch import nn
from torch.optim import Optimizer

from peft_regress import registry
from peft_regress.cases import Json, split_adapter_name
from peft_regress.catalogue.matrix import method_at
from peft_regress.catalogue.methods import peft_adapter
from peft_regress.catalogue.methods.adapter_shapes import ADAPTER
from peft_regress.catalogue.methods.method import Method
from peft_regress.catalogue.methods.peft_adapter import PeftAdapter, SavedByPeft
from peft_regress.catalogue.methods.targets import find_heads
from peft_regress.errors import InputError, UnsupportedCaseError
from peft_regress.imports import told
from peft_regress.measure.training import seed_all
from peft_regress.project.fine_tune import FineTune, NamedConfig

# Written by peft itself, or of no consequence for what is computed.
_UNSAID: Final = {
    "auto_mapping", "base_model_name_or_path", "inference_mode",
    "peft_type", "peft_version", "revision",
}  # fmt: skip
# Their `r` counts the blocks of a rotation, or divides the bases: twice as many are smaller.
_COUNT_BLOCKS: Final = {"OFTConfig", "RandLoraConfig"}
# They train a whole matrix where the rank is half its size or more.
_MAY_NOT_GROW: Final = {"LoKrConfig", "TinyLoraConfig", "UniLoraConfig"}
_PENALTIES: Final = ("orth_reg_weight", "auxiliary_loss_weight")
"""Settings of AdaLoRA and ShadowPEFT, which add to the loss that the model returns."""


def adapter_of(fine_tune: FineTune) -> Method:
    """Return what a fine-tuning puts on its model: a method, a configuration, or a callable.

    Raises `InputError` for no method, a wrong rank, or an optimizer beside a method's own.
    """
    given, heads = fine_tune.adapter, tuple(fine_tune.also_train)
    if isinstance(given, str):
        name, rank = split_adapter_name(given)
        method = method_at(name, rank, heads=heads)
        if fine_tune.optimizer is not None and method.has_own_optimizer:
            raise InputError(
                f"{given!r} brings an optimizer of its own; leave out optimizer=, or use another "
                "method"
            )
        return method
    if isinstance(given, NamedConfig):
        return _named_adapter(given, heads)
    if hasattr(given, "peft_type"):
        return _config_adapter(given, heads)
    return CallableAdapter(wrap=given, heads=heads)


@dataclass(frozen=True, kw_only=True)
class _OwnAdapter(Method):
    """An adapter that the catalogue does not have; its AdamW has torch's settings."""

    learning_rate: float = 1e-3

    def described(self) -> dict[str, Json]:
        return {"class": self.name}

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            problem = "nothing to train: no parameter of the adapted model requires a gradient"
            raise InputError(problem)
        return torch.optim.AdamW(trained, foreach=False, fused=False)


@dataclass(frozen=True, kw_only=True)
class CallableAdapter(_OwnAdapter):
    """Wraps a model by the user's function; nothing is known of it but what trains."""

    name: str = "callable"
    wrap: Callable[[nn.Module], Any]
    starts_elsewhere: str = "an adapter of one's own may start anywhere"
    adapter_in_float32: bool = False

    _file: ClassVar[str] = "trained.safetensors"

    def definition(self) -> Json:
        return self.name  # its code defines nothing

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:
        heads = find_heads(base, self.heads)
        seed_all(seed)
        adapted: object = self.wrap(base)
        if not isinstance(adapted, nn.Module):
            problem = f"the adapter returned a {type(adapted).__name__}, not the adapted model"
            raise InputError(problem)
        for head in heads:
            head.requires_grad_(requires_grad=True)
        if all(parameter.requires_grad for parameter in adapted.parameters()):
            raise InputError(
                "the adapter freezes nothing: every parameter of the model trains. Let it call "
                "requires_grad_(False) on the model, or use adapter='full'"
            )
        return adapted


@dataclass(frozen=True, kw_only=True)
class _MissingConfig(_OwnAdapter):
    """A configuration that the installed peft cannot make."""

    stated: Json
    problem: str

    def definition(self) -> Json:
        return self.stated

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:  # noqa: ARG002  (as of any method)
        raise UnsupportedCaseError(self.problem)


def _named_adapter(given: NamedConfig, heads: tuple[str, ...]) -> Method:
    kind, peft = given.name.rpartition(".")[2], import_module("peft")
    stated: Json = {"config": kind, "fields": plain_setting(given.settings)}
    try:
        config = _made_config(given)
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        problem = f"peft {peft.__version__} has no such {given.name}: {told(error)}"
        return _MissingConfig(name=kind, heads=heads, stated=stated, problem=problem)
    return dataclasses.replace(_config_adapter(config, heads), stated=stated)


def _made_config(given: NamedConfig) -> Any:
    parent, _, kind = f"peft.{given.name}".rpartition(".")
    settings = {
        name: _made_config(value) if isinstance(value, NamedConfig) else value
        for name, value in given.settings.items()
    }
    return getattr(import_module(parent), kind)(**settings)


def _config_adapter(config: Any, heads: tuple[str, ...]) -> ConfigAdapter:
    kind, fields = type(config).__name__, vars(config)
    of_peft = (method for method in registry.items("method") if isinstance(method, PeftAdapter))
    alike = [method for method in of_peft if method.config == kind]
    elsewhere, for_use_only = peft_adapter.start_elsewhere(kind, fields), ""
    if config.is_prompt_learning:
        elsewhere = f"{kind} puts a prompt before the inputs"
        for_use_only = f"peft does not load a prompt to train on ({kind})"
    return ConfigAdapter(
        name=kind,
        config=config,
        heads=heads,
        float32_numerics="hra" if kind == "HRAConfig" else "usual",
        prunes={part for method in alike for part in method.prunes},
        scales={part for method in alike for part in method.scales},
        starts_elsewhere=elsewhere,
        adds_to_loss=any(fields.get(name) for name in _PENALTIES),
        loads_for_use_only=for_use_only,
        grows_with_rank=kind not in _MAY_NOT_GROW,
    )


@dataclass(frozen=True, kw_only=True)
class ConfigAdapter(_OwnAdapter, SavedByPeft):
    """Puts the configured adapter of peft on a model, and trains the heads with it."""

    config: Any
    stated: Json = None
    """What its author stated of it, if that is not read from the configuration."""

    _file: ClassVar[str] = "trained_beside.safetensors"

    @property
    def alters_base(self) -> bool:
        return peft_adapter.alters_base(vars(self.config))

    @property
    def keeps_base(self) -> bool:
        return super().keeps_base and not getattr(self.config, "layer_replication", None)

    def definition(self) -> Json:
        if self.stated is not None:
            return self.stated
        fields = {name: value for name, value, is_default in self._fields() if not is_default}
        return {"config": self.name, "fields": fields}

    def described(self) -> dict[str, Json]:
        found = super().described()
        for name, value, is_default in self._fields():
            if not is_default or type(value) in {int, float}:
                found[name] = value
        return found

    def _fields(self) -> Iterator[tuple[str, Json, bool]]:
        for name, default in peft_adapter.config_defaults(type(self.config)).items():
            if name not in _UNSAID:
                value = plain_setting(getattr(self.config, name))
                yield name, value, value == plain_setting(default)

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:  # noqa: ARG002  (set before)
        heads = dict(zip(self.heads, find_heads(base, self.heads), strict=True))
        wrap, config = import_module("peft").get_peft_model, copy.deepcopy(self.config)
        adapted: nn.Module = wrap(base, config, adapter_name=ADAPTER)
        _check_untouched(base, heads)
        for head in heads.values():
            head.requires_grad_(requires_grad=True)
        return adapted

    def merge(self, model: nn.Module) -> nn.Module | None:
        tuner = getattr(model, "base_model", None)
        if self.config.is_prompt_learning or not hasattr(tuner, "merge_and_unload"):
            return None
        try:
            return super().merge(model)
        except NotImplementedError:
            return None

    def doubled(self) -> Self | None:
        rank = getattr(self.config, "r", None)
        counts_blocks = self.name in _COUNT_BLOCKS
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


def plain_setting(value: Any) -> Json:
    """Return a setting as JSON; the order of a set or of a list of targets means nothing."""
    if isinstance(value, Enum):
        return cast("Json", value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): plain_setting(item) for key, item in sorted(value.items(), key=str)}
    if isinstance(value, set | frozenset | list | tuple):
        plain = [plain_setting(item) for item in value]
        return sorted(plain, key=str) if isinstance(value, set | frozenset | list) else plain
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _check_untouched(base: nn.Module, heads: Mapping[str, nn.Module]) -> None:
    """Raise `InputError` if an adapter replaced a head, or a part, in the base it adapted."""
    for name, head in heads.items():
        inner = (k for k, part in head.named_modules() if type(part).__module__.startswith("peft."))
        part = "" if base.get_submodule(name) is not head else next(inner, None)
        if part is not None:
            raise InputError(
                f"the adapter targets {f'{name}.{part}'.removesuffix('.')!r}, and also_train "
                f"trains {name!r} in full: leave it to one"
            )
