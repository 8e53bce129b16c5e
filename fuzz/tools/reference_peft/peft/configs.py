"""Configurations: the fields that these adapters have."""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(kw_only=True)
class PeftConfig:
    """What adapters of all methods have."""

    target_modules: Any = None
    exclude_modules: Any = None
    modules_to_save: list[str] | None = None
    inference_mode: bool = False

    def targets(self, name: str) -> bool:
        """Return whether the layer of this path gets the adapter."""
        return _names(self.target_modules, name) and not _names(self.exclude_modules, name)

    def copies(self, name: str) -> bool:
        """Return whether the layer of this path is trained as a copy."""
        return _names(self.modules_to_save, name)

    def save(self, folder: Path) -> None:
        """Write the configuration as JSON."""
        content = {"config": type(self).__name__, **dataclasses.asdict(self)}
        (folder / "adapter_config.json").write_text(json.dumps(content))


@dataclass(kw_only=True)
class RankedConfig(PeftConfig):
    """What methods with a rank have."""

    r: int = 8
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    def rank(self, name: str) -> int:
        """Return the rank in a layer."""
        return int(_by_pattern(self.rank_pattern, name, self.r))


@dataclass(kw_only=True)
class LoraConfig(RankedConfig):
    """LoRA, and DoRA."""

    lora_alpha: float = 8
    lora_dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: Any = True

    def __post_init__(self) -> None:
        """Raise ValueError for a start that is not here."""
        if self.init_lora_weights not in {True, False, "gaussian"}:
            raise ValueError(f"init_lora_weights={self.init_lora_weights!r} is not supported")

    def scaling(self, name: str) -> float:
        """Return alpha / r in a layer, or alpha / sqrt(r)."""
        rank = self.rank(name)
        alpha = _by_pattern(self.alpha_pattern, name, self.lora_alpha)
        return float(alpha / (rank**0.5 if self.use_rslora else rank))


@dataclass(kw_only=True)
class LoHaConfig(RankedConfig):
    """LoHa."""

    alpha: float = 8
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    init_weights: bool = True

    def scaling(self, name: str) -> float:
        """Return alpha / r in a layer."""
        return float(_by_pattern(self.alpha_pattern, name, self.alpha) / self.rank(name))


@dataclass(kw_only=True)
class LoKrConfig(LoHaConfig):
    """LoKr."""

    init_weights: Any = True
    decompose_both: bool = False


@dataclass(kw_only=True)
class IA3Config(PeftConfig):
    """(IA)^3."""

    feedforward_modules: Any = None
    init_ia3_weights: bool = True

    def scales_inputs(self, name: str) -> bool:
        """Return whether a layer's inputs are scaled, and not its outputs."""
        return any(name.endswith(one) for one in self.feedforward_modules or ())


CONFIGS = {one.__name__: one for one in (IA3Config, LoHaConfig, LoKrConfig, LoraConfig)}


def load_config(folder: Path) -> PeftConfig:
    """Read a configuration."""
    content = json.loads((folder / "adapter_config.json").read_text())
    return CONFIGS[content.pop("config")](**content)


def _names(named: Any, path: str) -> bool:
    if isinstance(named, str):
        return re.fullmatch(named, path) is not None
    return any(path == one or path.endswith(f".{one}") for one in named or ())


def _by_pattern(pattern: dict[str, Any], path: str, default: Any) -> Any:
    for key, value in pattern.items():
        expression = key if key.startswith("^") else rf"(.*\.)?({key})"
        if re.fullmatch(expression, path):
            return value
    return default
