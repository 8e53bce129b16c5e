"""Read a saved adapter, a folder as peft writes it, as far as that needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.version import InvalidVersion, Version
from safetensors import SafetensorError, safe_open

from peft_regress.errors import InputError
from peft_regress.files import is_file, is_folder

CONFIGURATION: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_PICKLED: Final = "adapter_model.bin"


@dataclass(frozen=True, kw_only=True)
class SavedAdapter:
    """A saved adapter whose files can be read."""

    folder: Path
    configuration: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The `peft_type`, such as LORA."""
        return str(self.configuration["peft_type"])

    @property
    def saved_by(self) -> Version | None:
        """The release of peft that saved it; None if the file does not say, as before 0.18."""
        written = self.configuration.get("peft_version")
        try:
            # A development version is written as 0.19.0.dev0@commit.
            return Version(str(written).partition("@")[0]) if written else None
        except InvalidVersion:
            return None


def read_adapter(folder: Path) -> SavedAdapter:
    """Read a folder with a saved adapter; raises `InputError` if there is none, or it is broken."""
    if not is_folder(folder):
        raise InputError(f"{folder}: no such folder; name the one that `save_pretrained` wrote")
    for name in (CONFIGURATION, WEIGHTS):
        if not is_file(folder / name):
            raise InputError(_absent(folder, name))
    try:
        with safe_open(folder / WEIGHTS, framework="numpy"):
            return SavedAdapter(folder=folder, configuration=_configuration(folder / CONFIGURATION))
    except SafetensorError as error:
        problem = f"is no whole safetensors file ({error}); save the adapter again"
        raise InputError(f"{folder / WEIGHTS}: {problem}") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from error


def _absent(folder: Path, name: str) -> str:
    if name == WEIGHTS and is_file(folder / _PICKLED):
        return (
            f"{folder}: has {_PICKLED}, a pickle, which is not opened here; load the adapter where "
            "you trust it and save it again: model.save_pretrained(folder, safe_serialization=True)"
        )
    return f"{folder}: has no {name}; name the folder that `save_pretrained` wrote"


def _configuration(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is no JSON ({error}); save the adapter again") from error
    if not isinstance(found, dict) or not isinstance(found.get("peft_type"), str):
        problem = "has no peft_type, so that nobody knows its method; save the adapter again"
        raise InputError(f"{file}: {problem}")
    code = _foreign_code(found)
    if code:
        problem = "which a release may run; if you trust it, take that out there"
        raise InputError(f"{file}: {code}, {problem}")
    return found


def _foreign_code(configuration: dict[str, Any]) -> str:
    """Return what of a configuration lets a release of peft run other code; '' if nothing does."""
    # Older releases import `megatron_core` whatever it is, and hand `trust_remote_code` to
    # transformers. An X-LoRA loads the adapters that it names.
    module = configuration.get("megatron_core")
    if module not in (None, "megatron.core"):
        return f"megatron_core names the module {module!r}"
    if configuration.get("peft_type") == "XLORA" and configuration.get("adapters"):
        return "adapters names other files"
    if '"trust_remote_code"' in json.dumps(configuration):
        return "trust_remote_code asks for code of a hub"
    return ""
