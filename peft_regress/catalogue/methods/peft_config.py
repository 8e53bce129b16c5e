"""What the settings of a configuration of peft say, whoever wrote it. No torch at import.

Of a configuration the name of its class and its settings, so that those who draw settings can ask
before peft makes a configuration of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

_STARTS: Final = ("init_weights", "init_lora_weights", "init_ia3_weights")
# By design of the method; C3A starts as the identity only on request.
_RANDOM_STARTS: Final = {"C3AConfig", "VBLoRAConfig"}


def config_defaults(config: type) -> dict[str, Any]:
    """Return the fields of a configuration class with their defaults; None for one without."""
    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        if field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
        else:
            missing = field.default is dataclasses.MISSING
            defaults[field.name] = None if missing else field.default
    return defaults


def random_start(config: str, settings: Mapping[str, Any]) -> str:
    """Return why an adapter starts with random numbers; '' if it starts as the base's function."""
    for name in _STARTS:
        if settings.get(name, True) is False:
            return f"{name}=False starts the adapter with random numbers"
    if config in _RANDOM_STARTS and settings.get("init_weights") is not True:
        return f"{config} starts the adapter with random numbers"
    return ""


def alters_base(settings: Mapping[str, Any]) -> bool:
    """Return whether the start takes a part of the base's weights, as PiSSA's does."""
    start = settings.get("init_lora_weights", True)
    return isinstance(start, str) and start not in {"gaussian", "eva", "orthogonal"}
