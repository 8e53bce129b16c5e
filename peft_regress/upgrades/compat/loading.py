"""Load a saved adapter with the installed library, and look at what it became."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

import msgspec
import torch
from safetensors.torch import load_file
from torch import nn

from peft_regress.catalogue.methods.peft_adapter import config_defaults
from peft_regress.errors import PeftRegressError
from peft_regress.imports import told
from peft_regress.measure.own_adapters import plain_setting
from peft_regress.measure.training import seed_all, single_thread
from peft_regress.text import clean
from peft_regress.upgrades.compat.adapter import CONFIGURATION, WEIGHTS
from peft_regress.upgrades.compat.base_model import Base, is_finite, numbers_of
from peft_regress.upgrades.compat.releases import BaseMade, BaseModel, LoadAdapter, Loaded

_SEED: Final = 0
# They say how the adapter was loaded and by whom, not what it is.
_OF_LOADING: Final = frozenset({"auto_mapping", "inference_mode", "peft_version"})


class Loader:
    """Keeps the base model that adapters are loaded on: a worker's own side."""

    def __init__(self) -> None:
        self._base: Base
        self._request: BaseModel | None = None

    def make_base(self, request: BaseModel) -> BaseMade:
        """Make the base model, unless the last one was the same."""
        if request != self._request:
            with single_thread():
                self._base = Base(request)
            self._request = request
        return self._base.made

    def load(self, request: LoadAdapter) -> Loaded:
        """Load a saved adapter on it; if it is refused, once more without unknown fields."""
        folder = Path(request.adapter)
        with single_thread():
            found = load_adapter(self._base, folder)
            if not (found.refusal and found.unknown_fields):
                return found
            without = load_adapter(self._base, folder, leave_out=found.unknown_fields)
        return msgspec.structs.replace(found, without=without)


def load_adapter(base: Base, folder: Path, *, leave_out: Sequence[str] = ()) -> Loaded:
    """Load a saved adapter for inference, merge it, and load it once more to train on.

    leave_out: fields of the configuration that are not handed to the library. Raises `InputError`
    if the base model is not the same each time.
    """
    written: dict[str, Any] = json.loads((folder / CONFIGURATION).read_bytes())
    with _without(folder, written, leave_out) as chosen:
        return _Loading(base, chosen, written).run()


@contextlib.contextmanager
def _without(folder: Path, written: Mapping[str, Any], leave_out: Sequence[str]) -> Iterator[Path]:
    """Give the folder, or a copy whose configuration lacks some fields."""
    if not leave_out:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as scratch:
        kept = {name: value for name, value in written.items() if name not in leave_out}
        (Path(scratch) / CONFIGURATION).write_text(json.dumps(kept))
        shutil.copy(folder / WEIGHTS, scratch)
        yield Path(scratch)


class _Loading:
    def __init__(self, base: Base, folder: Path, written: dict[str, Any]) -> None:
        self._base = base
        self._folder = folder
        self._written = written
        self._found: dict[str, Any] = {}

    def run(self) -> Loaded:
        """Return what is known when the library refuses, or in the end."""
        # What a library raises of any kind is its refusal; a base that changes is not.
        try:
            self._load()
        except PeftRegressError:
            raise
        except Exception as error:  # noqa: BLE001
            self._found["refusal"] = told(error)
            return Loaded(**self._found)
        try:
            model = self._from_pretrained(is_trainable=True)
            self._found["trainable"] = _trainable(model)
        except PeftRegressError:
            raise
        except Exception as error:  # noqa: BLE001
            self._found["training_problem"] = told(error)
        return Loaded(**self._found)

    def _load(self) -> None:
        from peft import __version__
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        kind = self._written["peft_type"]
        if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
            self._found["refusal"] = f"peft {__version__} has no method {kind}"
            return
        self._look_at_fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])
        with _kept_results() as results:
            model: Any = self._from_pretrained(is_trainable=False)
        (configuration,) = model.peft_config.values()
        self._look_at_changes(configuration)
        self._look_at_keys(model, results)
        self._found["trainable_for_inference"] = _trainable(model)
        outputs = self._base.outputs(model)
        self._found |= {
            "outputs": numbers_of(outputs),
            "is_finite": is_finite(outputs),
            "is_steady": self._base.is_steady(model, outputs),
        }
        try:
            merged = self._base.outputs(model.merge_and_unload())
            self._found["merged"] = numbers_of(merged) if is_finite(merged) else []
        except Exception as error:  # noqa: BLE001  (not every method can merge)
            self._found["merge_problem"] = told(error)

    def _from_pretrained(self, *, is_trainable: bool) -> nn.Module:
        from peft import PeftModel

        base = self._base.model()
        # What the file lacks is drawn.
        seed_all(_SEED)
        model = PeftModel.from_pretrained(base, str(self._folder), is_trainable=is_trainable)
        return model.float()

    def _look_at_fields(self, configuration: type) -> None:
        defaults = config_defaults(configuration)
        # A release that does not know the field `peft_version` may refuse that as well.
        self._found["unknown_fields"] = sorted(self._written.keys() - defaults.keys())
        self._found["default_fields"] = sorted(
            name
            for name in (self._written.keys() & defaults.keys()) - _OF_LOADING
            if plain_setting(defaults[name]) == plain_setting(self._written[name])
        )

    def _look_at_changes(self, configuration: Any) -> None:
        changed = {}
        for name, value in self._written.items():
            if name in _OF_LOADING or not hasattr(configuration, name):
                continue
            now = getattr(configuration, name)
            if plain_setting(now) != plain_setting(value):
                changed[name] = (_shown(value), _shown(now))
        self._found["changed_fields"] = changed

    def _look_at_keys(self, model: nn.Module, results: Sequence[Any]) -> None:
        from peft import get_peft_model_state_dict

        unexpected = [key for result in results for key in result.unexpected_keys]
        stored = load_file(self._folder / WEIGHTS)
        now = get_peft_model_state_dict(model, save_embedding_layers=False)
        self._found |= {
            "unexpected_keys": sorted(unexpected),
            "missing_keys": sorted(now.keys() - stored.keys()),
            "foreign_keys": sorted(stored.keys() - now.keys()),
            "altered_keys": sorted(
                name for name in now.keys() & stored.keys() if not _equal(now[name], stored[name])
            ),
        }


@contextlib.contextmanager
def _kept_results() -> Iterator[list[Any]]:
    """Keep what the library's own loading of a state dict returns, which it drops."""
    from peft import PeftModel

    results: list[Any] = []
    original: Any = PeftModel.load_adapter

    def load_adapter(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        results.append(result)
        return result

    with mock.patch.object(PeftModel, "load_adapter", load_adapter):
        yield results


def _trainable(model: nn.Module) -> list[str]:
    trained = (name for name, one in model.named_parameters() if one.requires_grad)
    return sorted(name.removesuffix(".weight") for name in trained)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.detach().float(), other.float())


def _shown(value: Any) -> str:
    return clean(json.dumps(plain_setting(value)))
