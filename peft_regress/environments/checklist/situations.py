"""List what is compared: configurations of a method, kinds of layers, number types. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from peft_regress import registry
from peft_regress.catalogue.methods import PeftAdapter
from peft_regress.environments.checklist.messages import Situation
from peft_regress.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from peft_regress.cases import Json

NUMBERS: Final = (
    ("float32", False),
    ("float16", False),
    ("float16", True),
    ("bfloat16", False),
    ("bfloat16", True),
)
"""Number types of the base, and whether peft casts the adapter to float32."""

_USUAL_RANK: Final = 4
_GROUPED_RANK: Final = 16


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with one kind of layer to adapt."""

    name: str
    shown: str
    """The kind of layer."""
    first: str = ""
    """The qualified name of its first target."""
    rank: int = _USUAL_RANK
    is_architecture: bool = False
    """Whether it is one of the catalogue, which a method adapts by its own rule."""


NETWORKS: Final = (
    Network(name="linear", shown="Linear", first="query"),
    Network(name="embedding", shown="Embedding", first="embedding"),
    Network(name="attention", shown="MultiheadAttention", first="attention"),
    Network(name="conv1d", shown="Conv1d", first="stem"),
    Network(name="conv2d", shown="Conv2d", first="stem"),
    Network(name="grouped", shown="Conv2d grouped", first="middle", rank=_GROUPED_RANK),
    Network(name="conv3d", shown="Conv3d", first="stem"),
    Network(name="normalization", shown="LayerNorm", first="norm"),
    Network(name="resnet18", shown="resnet18", is_architecture=True),
    Network(name="mobilenet_v2", shown="mobilenet_v2", is_architecture=True),
)
"""The first ones are small; the last ones are architectures with seeded weights."""

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

USUAL: Final = "as in the catalogue"


def known_methods() -> dict[str, PeftAdapter]:
    """Return the methods of the catalogue that a checklist can compare, by name."""
    return {
        method.name: method
        for method in registry.items("method")
        if isinstance(method, PeftAdapter) and method.base_dtype == "float32"
    }


def find_method(name: str) -> PeftAdapter:
    """Return an adapter of peft by its name in the catalogue.

    Raises `UnknownNameError`, and `InputError` for a method that is not an adapter of peft or
    whose base type is part of its name.
    """
    known = known_methods()
    if name in known:
        return known[name]
    if name in registry.names("method"):
        msg = (
            f"--checklist {name}: not an adapter of peft on a float32 base, which the checklist "
            f"casts itself. Known: {', '.join(sorted(known))}"
        )
        raise InputError(msg)
    what = "method"
    raise UnknownNameError(what, name, known)


def situations(method: PeftAdapter, fields: Collection[str]) -> Iterator[Situation]:
    """Yield what to compare, the small networks first.

    `fields` are those of the configuration on the base: configurations that it lacks are left out.
    """
    for network in NETWORKS:
        for label, settings in _settings(method, network, fields):
            # Rounding to half precision moves mobilenet_v2's outputs by a third: no bound would see
            # an error there.
            for dtype, autocast in NUMBERS[: 1 if network.is_architecture else None]:
                yield Situation(
                    method=method.name,
                    network=network.name,
                    label=label,
                    rank=_rank(method, network),
                    settings=settings,
                    dtype=dtype,
                    autocast=autocast,
                    trains=dtype == "float32",
                )


def _settings(
    method: PeftAdapter, network: Network, fields: Collection[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    rank = _rank(method, network)
    usual = dict(method.settings(rank))
    yield USUAL, usual
    if network.is_architecture:
        return
    for label, overrides in _BY_CONFIG.get(method.config, ()):
        changes = overrides(rank or 0, network.first)
        settings = {**usual, **changes}
        if changes.keys() <= set(fields) and settings != usual:
            yield label, settings


def _rank(method: PeftAdapter, network: Network) -> int | None:
    return max(network.rank, *_own_rank(method)) if method.ranks else None


def _own_rank(method: PeftAdapter) -> tuple[int, ...]:
    """Return the rank that a method needs if its targets are grouped convolutions."""
    return (method.ranks[0],) if method.targets.grouped and not method.targets.ungrouped else (1,)
