"""Load a saved adapter with the installed library, and look at what it became."""

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
    found: dict[str, Any] = {}
    with _without(folder, written, leave_out) as chosen:
        with _told_of(found, "refusal"):
            _use(base, chosen, written, found)
        if "refusal" not in found:
            with _told_of(found, "training_problem"):
                model = _from_pretrained(base, chosen, is_trainable=True)
                found["trainable"] = _trainable(model)
    return Loaded(**found)


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


@contextlib.contextmanager
def _told_of(found: dict[str, Any], problem: str) -> Iterator[None]:
    """Note as a problem whatever the library raises; that the base changes is none of its own."""
    try:
        yield
    except PeftRegressError:
        raise
    except Exception as error:  # noqa: BLE001
        found[problem] = told(error)


def _use(base: Base, folder: Path, written: Mapping[str, Any], found: dict[str, Any]) -> None:
    """Load the adapter for inference and merge it; what is found stays if the library refuses."""
    from peft import __version__
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = written["peft_type"]
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        found["refusal"] = f"peft {__version__} has no method {kind}"
        return
    found |= _fields(config_defaults(PEFT_TYPE_TO_CONFIG_MAPPING[kind]), written)
    with _kept_results() as results:
        model: Any = _from_pretrained(base, folder, is_trainable=False)
    (configuration,) = model.peft_config.values()
    found["changed_fields"] = dict(_changes(configuration, written))
    found |= _keys(model, folder, results)
    found["trainable_for_inference"] = _trainable(model)
    outputs = base.outputs(model)
    found |= {
        "outputs": numbers_of(outputs),
        "is_finite": is_finite(outputs),
        "is_steady": base.is_steady(model, outputs),
    }
    with _told_of(found, "merge_problem"):  # not every method can merge
        merged = base.outputs(model.merge_and_unload())
        found["merged"] = numbers_of(merged) if is_finite(merged) else []


def _from_pretrained(base: Base, folder: Path, *, is_trainable: bool) -> nn.Module:
    from peft import PeftModel

    model = base.model()
    # What the file lacks is drawn.
    seed_all(_SEED)
    return PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable).float()


def _fields(defaults: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, list[str]]:
    known = (written.keys() & defaults.keys()) - _OF_LOADING
    return {
        # A release that does not know the field `peft_version` may refuse that as well.
        "unknown_fields": sorted(written.keys() - defaults.keys()),
        "default_fields": sorted(
            name for name in known if plain_setting(defaults[name]) == plain_setting(written[name])
        ),
    }


def _changes(
    configuration: Any, written: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, value in written.items():
        if name not in _OF_LOADING and hasattr(configuration, name):
            now = getattr(configuration, name)
            if plain_setting(now) != plain_setting(value):
                yield name, (_shown(value), _shown(now))


def _keys(model: nn.Module, folder: Path, results: Sequence[Any]) -> dict[str, list[str]]:
    from peft import get_peft_model_state_dict

    stored = load_file(folder / WEIGHTS)
    now = get_peft_model_state_dict(model, save_embedding_layers=False)
    both = now.keys() & stored.keys()
    return {
        "unexpected_keys": sorted(key for result in results for key in result.unexpected_keys),
        "missing_keys": sorted(now.keys() - stored.keys()),
        "foreign_keys": sorted(stored.keys() - now.keys()),
        "altered_keys": sorted(
            k for k in both if not torch.equal(now[k].float(), stored[k].float())
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


def _shown(value: Any) -> str:
    return clean(json.dumps(plain_setting(value)))
