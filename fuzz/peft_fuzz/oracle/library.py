"""Wrap, save and load with the installed release, and say what it lacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peft_fuzz.methods import Method
from peft_fuzz.methods.method import config_defaults
from peft_fuzz.oracle.checks import AbsentError


def configuration(method: Method, settings: Mapping[str, Any]) -> Any:
    """Return the configuration of an adapter."""
    import peft

    if not hasattr(peft, method.config):
        message = f"peft {peft.__version__} has no {method.config}"
        raise AbsentError(message)
    wanted = {**method.fixed, **settings}
    unknown = sorted({*wanted} - {*config_defaults(method.config)})
    if unknown:
        message = f"{method.config} of peft {peft.__version__} has no {unknown[0]}"
        raise AbsentError(message)
    return getattr(peft, method.config)(**wanted)


def autocast_argument(function: Callable[..., Any], *, autocast: bool) -> dict[str, bool]:
    """Return `autocast_adapter_dtype` if it is off and the function takes it.

    Releases without it never convert the adapters.
    """
    takes = "autocast_adapter_dtype" in inspect.signature(function).parameters
    return {} if autocast or not takes else {"autocast_adapter_dtype": False}


def save(model: Any, folder: Path, adapters: list[str] | None = None) -> None:
    """Save adapters, without the model card, which nothing here is about."""
    model.create_or_update_model_card = lambda *_args, **_keywords: None
    try:
        model.save_pretrained(str(folder), selected_adapters=adapters)
    finally:
        del model.create_or_update_model_card


def saved_in(folder: Path, adapter: str) -> Path:
    """Return where `save_pretrained` puts an adapter."""
    return folder if adapter == "default" else folder / adapter


def load_beside(model: Any, folder: Path, name: str, *, trainable: bool, autocast: bool) -> None:
    """Load an adapter into a model that has others."""
    keywords = autocast_argument(model.load_adapter, autocast=autocast)
    model.load_adapter(str(folder), name, is_trainable=trainable, torch_device="cpu", **keywords)
