"""A method of peft; `adapters` has a table of them. No torch at import."""

# ruff: noqa: D102  (`Method` says what each returns)

from __future__ import annotations

import copy
import dataclasses
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from peft_regress.cases import Json
from peft_regress.catalogue.methods import method
from peft_regress.catalogue.methods.adapter_shapes import ADAPTER
from peft_regress.catalogue.methods.method import Method, Shapes
from peft_regress.catalogue.methods.targets import (
    ALL_BUT_GROUPED,
    Targets,
    head_parameters,
    no_targets,
)
from peft_regress.errors import UnsupportedCaseError
from peft_regress.memory import lean

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

_ADAPTER_FILE: Final = "adapter_model.safetensors"
_DEFINITION_NAMES: Final = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}
_STARTS: Final = ("init_weights", "init_lora_weights", "init_ia3_weights")
# By design of the method.
_RANDOM_STARTS: Final = {"C3AConfig", "UniLoraConfig", "VBLoRAConfig"}
_ELSEWHERE: Final = {
    "kasa_config": "KaSA takes the smallest singular values out of the base's weights",
    "layer_replication": "layer_replication repeats layers of the base",
}


def config_defaults(config: type) -> dict[str, Any]:
    """Return the fields of a configuration class with their defaults; None for one without."""
    missing = dataclasses.MISSING
    return {
        field.name: field.default_factory()
        if field.default_factory is not missing
        else (None if field.default is missing else field.default)
        for field in dataclasses.fields(config)
    }


def start_elsewhere(config: str, settings: Mapping[str, Any]) -> str:
    """Return why an adapter starts as another function than the base's; '' if it does not."""
    for name in _STARTS:
        if settings.get(name, True) is False:
            return f"{name}=False starts the adapter with random numbers"
    is_asked = config == "C3AConfig" and settings.get("init_weights") is True
    if config in _RANDOM_STARTS and not is_asked:
        return f"{config} starts the adapter with random numbers"
    return next((why for name, why in _ELSEWHERE.items() if settings.get(name)), "")


def alters_base(settings: Mapping[str, Any]) -> bool:
    """Return whether the start takes a part of the base's weights, as PiSSA's does."""
    start = settings.get("init_lora_weights", True)
    takes = isinstance(start, str) and start not in {"gaussian", "eva", "orthogonal"}
    return takes or bool(settings.get("kasa_config"))


@dataclass(frozen=True, kw_only=True)
class SavedByPeft(Method):
    """An adapter that peft saves, loads, switches off and merges; the heads lie beside it.

    The heads are unfrozen themselves and not named in peft's `modules_to_save`, which keeps a
    second, unused copy of each and inflates parameter counts and memory. So their tensors are
    shipped here and not by peft.
    """

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        return {**_adapter_state(model), **self._beside(model)}

    def _beside(self, model: nn.Module) -> dict[str, Tensor]:
        return {**head_state(model, self.heads), **method.moved_buffers(model, self.moving)}

    def save(self, model: nn.Module, folder: Path) -> None:
        # By default it would ask the hub about embeddings, which a vision model does not have.
        cast("Any", model).save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # a model card without content
        if tensors := self._beside(model):
            method.save_tensors(tensors, folder / self._file)

    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        adapted = self.read(base, folder, is_trainable=trainable)
        of_heads = head_parameters(cast("Any", adapted).get_base_model(), self.heads).values()
        for parameter in of_heads:
            parameter.requires_grad = True
        if targets := self._beside(adapted):
            method.load_tensors(targets, folder / self._file)
        for parameter in of_heads:
            parameter.requires_grad = trainable
        return adapted

    def read(self, base: nn.Module, folder: Path, **options: Any) -> nn.Module:
        """Put the adapter of a folder on a model; `options` are those of `from_pretrained`."""
        peft = import_module("peft")
        adapted = peft.PeftModel.from_pretrained(base, folder, adapter_name=ADAPTER, **options)
        return cast("nn.Module", adapted)

    def disabled(self, model: nn.Module) -> AbstractContextManager[None]:
        return cast("AbstractContextManager[None]", cast("Any", model).disable_adapter())

    def merge(self, model: nn.Module) -> nn.Module | None:
        return cast("nn.Module", cast("Any", copy.deepcopy(model)).merge_and_unload())


def _adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of an adapter as peft would save them."""
    peft = import_module("peft")
    state = peft.get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    return cast("dict[str, Tensor]", state)


def head_state(model: nn.Module, heads: tuple[str, ...]) -> dict[str, Tensor]:
    """Return what trains of the heads of a model that peft wrapped, by its names in the base."""
    of_heads = head_parameters(cast("Any", model).get_base_model(), heads)
    return {name: p.detach() for name, p in of_heads.items() if p.requires_grad}


@dataclass(frozen=True, kw_only=True)
class PeftAdapter(SavedByPeft):
    """Put an adapter of peft on chosen layers, and train it together with the whole heads."""

    ranks: tuple[int, ...] = (4,)
    matrices: tuple[str, ...] = ("extended",)
    architectures: tuple[str, ...] = ()
    """Those that it is for, in a matrix; empty for all."""
    extended_on: tuple[str, ...] = ()
    """Those on which it is in the matrix `extended` alone."""
    tasks: tuple[str, ...] = ()
    """Likewise those that it is for."""
    config: str
    """The name of peft's configuration class."""
    settings: Callable[[int | None], Mapping[str, Json]]
    """Its arguments for a rank, without the targets."""
    shapes: Callable[[nn.Module, int], Shapes]
    """Name and shape of each parameter added to a layer, for the layer and the rank."""
    targets: Targets = ALL_BUT_GROUPED
    """The layers that are adapted."""
    optimizer: Callable[[PeftAdapter, nn.Module], Optimizer] | None = None
    """Makes the optimizer from the method and the model; None for AdamW over what trains."""
    optimizer_settings: Mapping[str, Json] | None = None
    """Its settings, for the definition, where they are not those of AdamW."""
    frozen: str | None = None
    """A part of the names of adapter parameters that do not train."""
    wrapping: Callable[[], AbstractContextManager[None]] = nullcontext
    """A context for wrapping, which keeps the library from doing harm."""
    expected_warning: str = ""
    """The start of what the library says at each wrapping, a pattern; it is not shown."""

    _file: ClassVar[str] = "head.safetensors"

    def hyperparameters(self) -> dict[str, Json]:
        """Return all settings, in peft's names except for rank, alpha and dropout."""
        # Not for LoRA's class, so that the definitions of its first methods stay the same.
        of_config = {} if self.config == "LoraConfig" else {"config": self.config}
        settings = self.settings(self.rank)
        return {
            **super().hyperparameters(),
            **({"lean": True} if self.is_lean else {}),
            **(self.optimizer_settings or {}),
            "rank": self.rank,
            **{_DEFINITION_NAMES.get(name, name): value for name, value in settings.items()},
            "targets": self.targets.description,
            "head": "trained in full",
            **of_config,
        }

    @property
    def alters_base(self) -> bool:
        return alters_base(self.settings(self.rank))

    @property
    def has_own_optimizer(self) -> bool:
        return self.optimizer is not None

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:
        """Wrap the model with peft under `seed`; `UnsupportedCaseError` also without the method."""
        of_heads = head_parameters(base, self.heads)
        layers = self.targets.find(base, heads=self.heads)
        if not layers:
            raise no_targets(self.name, base, targets=self.targets.description, heads=self.heads)
        adapted = self.wrap(base, layers, self.settings(self.rank), seed=seed)
        for parameter in of_heads.values():
            parameter.requires_grad = True
        return adapted

    def wrap(
        self,
        model: nn.Module,
        layers: Iterable[str],
        settings: Mapping[str, Any],
        *,
        seed: int,
        **options: Any,
    ) -> nn.Module:
        """Put a fresh adapter on layers by name; `options` are those of peft's `get_peft_model`."""
        peft = import_module("peft")
        make_config = getattr(peft, self.config, None)
        if make_config is None:
            raise UnsupportedCaseError(f"{self.name}: peft {peft.__version__} has no {self.config}")
        # peft matches a list by suffix but a pattern by full match: only a pattern is exact.
        config = make_config(target_modules="|".join(map(re.escape, layers)), **settings)
        with self._seeded(seed):
            adapted = peft.get_peft_model(model, config, adapter_name=ADAPTER, **options)
        return self._finished(adapted)

    def read(self, base: nn.Module, folder: Path, *, seed: int = 0, **options: Any) -> nn.Module:
        with self._seeded(seed):
            adapted = super().read(base, folder, **options)
        return self._finished(adapted)

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """Let peft draw under a seed, without the warning that is expected."""
        import torch  # listing names must not cost the import

        with torch.random.fork_rng(devices=[]), self.wrapping(), warnings.catch_warnings():
            if self.expected_warning:
                warnings.filterwarnings("ignore", message=self.expected_warning)
            torch.manual_seed(seed)
            yield

    def _finished(self, adapted: nn.Module) -> nn.Module:
        """Freeze what a method freezes, which peft leaves to its users; make the model lean."""
        for name, parameter in adapted.named_parameters():
            if self.frozen is not None and self.frozen in name:
                parameter.requires_grad = False
        if self.is_lean:
            self.set_mode(adapted)
            lean(adapted)
        return adapted

    def expected_trainable(self, base: nn.Module) -> Shapes:
        expected = {
            f"{method.PEFT_PREFIX}{name}.{parameter}": shape
            for name, layer in self.targets.find(base, heads=self.heads).items()
            for parameter, shape in self.shapes(layer, self.rank or 0).items()
        }
        of_heads = head_parameters(base, self.heads).items()
        return expected | {
            f"{method.PEFT_PREFIX}{name}": tuple(one.shape) for name, one in of_heads
        }

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        if self.optimizer is None:
            return super().make_optimizer(model)
        return self.optimizer(self, model)

    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        from safetensors.torch import load_file

        adapted = super().load(base, folder, trainable=trainable)
        # peft does not report surplus or absent tensors.
        method.check_names(load_file(folder / _ADAPTER_FILE), _adapter_state(adapted))
        return adapted
