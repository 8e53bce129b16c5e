"""List what is compared, and what a worker is asked of it and answers. No torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from peft_regress import registry
from peft_regress.cases import Json
from peft_regress.catalogue.methods import PeftAdapter
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.runs.schema import Failure
from peft_regress.text import clean

NUMBERS: Final = (
    ("float32", False),
    ("float16", False),
    ("float16", True),
    ("bfloat16", False),
    ("bfloat16", True),
)
"""Number types of the base, and whether peft casts the adapter to float32."""

PARTS: Final = {
    "unmerged": "loading",
    "off": "disabling",
    "merged": "merging",
    "merged safely": "merging",
    "restored": "unmerging",
    "off when merged": "unmerging",
    "reloaded": "reloading",
}
"""The outputs that are compared, and what gives each: of the adapter, of the base with the adapter
off, of the merged adapter, of the base with the adapter unmerged after that and off, of the base
with a merged adapter off, and of the adapter that was saved and loaded again."""
OUTPUTS: Final = "outputs-{}.safetensors"
"""The file that a side writes its outputs into."""


class Network(NamedTuple):
    """A network with one kind of layer to adapt; `targets` are the names of its layers."""

    shown: str
    targets: tuple[str, ...]
    rank: int = 4


_CONVOLUTIONS: Final = ("stem", "middle", "last")
NETWORKS: Final = {
    "linear": Network("Linear", ("query", "key", "value", "output", "up", "down")),
    "embedding": Network("Embedding", ("embedding",)),
    "attention": Network("MultiheadAttention", ("attention",)),
    "conv1d": Network("Conv1d", _CONVOLUTIONS),
    "conv2d": Network("Conv2d", _CONVOLUTIONS),
    "grouped": Network("Conv2d grouped", ("middle", "last"), 16),
    "conv3d": Network("Conv3d", _CONVOLUTIONS),
    "normalization": Network("LayerNorm", ("norm", "last_norm")),
}


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter on one network in one number type."""

    method: str
    network: str
    label: str
    """Names the configuration."""
    rank: int | None
    settings: dict[str, Any]
    """The arguments of the configuration, without the targets."""
    dtype: str = "float32"
    autocast: bool = False
    """peft's `autocast_adapter_dtype`: whether the adapter of a half-precision base is float32."""

    @property
    def trains(self) -> bool:
        """Whether a short training belongs to it."""
        return self.dtype == "float32"

    @property
    def numbers(self) -> str:
        """Name the number type and whether the adapter is cast to float32."""
        if self.dtype == "float32":
            return self.dtype
        return f"{self.dtype} autocast" if self.autocast else self.dtype

    @property
    def layer(self) -> str:
        """Name the kind of layer."""
        return NETWORKS[self.network].shown

    @property
    def place(self) -> str:
        """Name the kind of layer and the number type."""
        return f"{self.layer}, {self.numbers}"

    def __str__(self) -> str:
        return f"{self.place}, {self.label}"


_Overrides = tuple[str, "Callable[[int, str], Mapping[str, Json]]"]

_LORA: Final[tuple[_Overrides, ...]] = (
    ("alpha = 2 r", lambda r, _: {"r": 2 * r, "lora_alpha": 4 * r}),
    ("rsLoRA", lambda r, _: {"use_rslora": True, "lora_alpha": 2 * r}),
    ("DoRA", lambda *_: {"use_dora": True}),
    ("bias", lambda *_: {"bias": "lora_only"}),
    ("lora_bias", lambda *_: {"lora_bias": True}),
    ("dropout", lambda *_: {"lora_dropout": 0.1}),
    ("init gaussian", lambda *_: {"init_lora_weights": "gaussian"}),
    ("init pissa", lambda *_: {"init_lora_weights": "pissa"}),
    ("init olora", lambda *_: {"init_lora_weights": "olora"}),
    ("patterns", lambda r, at: {"rank_pattern": {at: 2 * r}, "alpha_pattern": {at: 3 * r}}),
)
_LOHA: Final[tuple[_Overrides, ...]] = (
    ("alpha = 2 r", lambda r, _: {"r": 2 * r, "alpha": 4 * r}),
    ("effective conv2d", lambda *_: {"use_effective_conv2d": True}),
    ("rank dropout", lambda *_: {"rank_dropout": 0.1}),
    ("patterns", lambda r, at: {"rank_pattern": {at: 2 * r}, "alpha_pattern": {at: 3 * r}}),
)
_BY_CONFIG: Final[dict[str, tuple[_Overrides, ...]]] = {
    "LoraConfig": _LORA,
    "LoHaConfig": _LOHA,
    "LoKrConfig": (
        *_LOHA,
        ("decompose both", lambda *_: {"decompose_both": True}),
        ("decompose factor 4", lambda *_: {"decompose_factor": 4}),
    ),
    "AdaLoraConfig": (
        ("alpha = 2 r", lambda r, _: {"lora_alpha": 2 * r}),
        ("bias", lambda *_: {"bias": "lora_only"}),
    ),
    "HiraConfig": (
        ("rank 2 r", lambda r, _: {"r": 2 * r}),
        ("patterns", lambda r, at: {"rank_pattern": {at: 2 * r}}),
    ),
    "HRAConfig": (
        ("rank 2 r", lambda r, _: {"r": 2 * r}),
        # Its start has equal vectors, whose difference is rounding: drawn ones are apart.
        ("Gram-Schmidt", lambda *_: {"apply_GS": True, "init_weights": False}),
    ),
    "OFTConfig": (
        ("by number of blocks", lambda *_: {"r": 2, "oft_block_size": 0}),
        ("constrained", lambda *_: {"coft": True, "eps": 1.0}),
        ("shared blocks", lambda *_: {"block_share": True}),
        ("exact Cayley", lambda *_: {"use_cayley_neumann": False}),
    ),
    "BOFTConfig": (
        ("by number of blocks", lambda *_: {"boft_block_size": 0, "boft_block_num": 4}),
        ("two butterflies", lambda *_: {"boft_n_butterfly_factor": 2}),
        ("bias", lambda *_: {"bias": "boft_only"}),
    ),
    "IA3Config": (("feedforward", lambda _, at: {"feedforward_modules": [at]}),),
}
"""Configurations to try besides the catalogue's, by peft's class: what changes, for a rank and the
name of a target."""


def known_methods() -> dict[str, PeftAdapter]:
    """Return the methods of the catalogue that a checklist can compare, by name."""
    return {
        method.name: method
        for method in registry.items("method")
        if isinstance(method, PeftAdapter) and method.base_dtype == "float32"
    }


def find_method(name: str) -> PeftAdapter:
    """Return an adapter of peft by its name in the catalogue."""
    known = known_methods()
    if name in known:
        return known[name]
    if name in registry.names("method"):
        raise InputError(
            f"--checklist {name}: not an adapter of peft on a float32 base, which the checklist "
            f"casts itself. Known: {', '.join(sorted(known))}"
        )
    raise UnknownNameError("method", name, known)


def situations(method: PeftAdapter, fields: Collection[str]) -> Iterator[Situation]:
    """Yield what to compare."""
    for name, network in NETWORKS.items():
        rank = _rank(method, network)
        usual = dict(method.settings(rank))
        tried = [("as in the catalogue", usual)]
        for label, overrides in _BY_CONFIG.get(method.config, ()):
            changes = overrides(rank or 0, network.targets[0])
            if changes.keys() <= set(fields) and {**usual, **changes} != usual:
                tried.append((label, {**usual, **changes}))
        for label, settings in tried:
            for dtype, autocast in NUMBERS:
                yield Situation(
                    method=method.name,
                    network=name,
                    label=label,
                    rank=rank,
                    settings=settings,
                    dtype=dtype,
                    autocast=autocast,
                )


def _rank(method: PeftAdapter, network: Network) -> int | None:
    if not method.ranks:
        return None
    # A method of grouped convolutions alone needs its rank on every network.
    is_grouped = method.targets.grouped and not method.targets.ungrouped
    return max(network.rank, method.ranks[0] if is_grouped else 1)


# --- Messages, besides those of every worker ------------------------------------------------------


class Inspect(msgspec.Struct, frozen=True, kw_only=True):
    """Import peft and look at the configuration of a method."""

    method: str


class Inspected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """peft can be imported."""

    packages: dict[str, str]
    """The versions of all packages there."""
    fields: dict[str, str] | None
    """The default of each field of the configuration; None if peft has no such method."""

    @property
    def peft(self) -> str:
        """The version of peft."""
        return self.packages["peft"]


class Examine(msgspec.Struct, frozen=True, kw_only=True):
    """Compute what a situation gives, and write the outputs into a folder."""

    situation: Situation
    folder: str
    is_base: bool
    """The base makes the checkpoint and the other side loads it."""


class Examined(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a situation gives; what could not be computed has a failure."""

    lost: str = ""
    """Why the worker gave no answer."""
    unavailable: str = ""
    """Why the network itself cannot compute in this number type here."""
    failures: dict[str, Failure] = {}
    """By what failed: adapting (or computing), a stage of `PARTS`, training."""
    keys: dict[str, str] = {}
    """Type and shape of each tensor of the checkpoint that this side writes."""
    effect: float = 0.0
    """The largest difference that the adapter makes to an output."""
    losses: list[float] = []
    """Of a short training from a fresh adapter."""

    def failure_at(self, *stages: str) -> str:
        """Return the first failure of some stages on one line; empty if there is none."""
        for stage in stages:
            if stage in self.failures:
                failure = self.failures[stage]
                return f"{stage}: {clean(f'{failure.type}: {failure.message}')}"
        return ""
