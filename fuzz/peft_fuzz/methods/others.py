"""Methods of which no formula is carried out here, or a short one; all other checks hold of them.

Their functions are nonlinear in the weights, draw random projections, or start from a decomposition
of the weight that only the library's own code repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from peft_fuzz.example import Layer
from peft_fuzz.methods.layout import as_rows
from peft_fuzz.methods.method import LayerAdapter, Limit, Method

if TYPE_CHECKING:
    from torch import Tensor, nn


_LINEAR: Final = frozenset[Any]({"linear"})
_BOTH: Final = frozenset[Any]({"linear", "transposed_linear"})
_MERGES: Final = frozenset[Any]({"merge", "several_active", "unmerge"})


def shira(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W with numbers added at fixed places; Bhardwaj et al., SHiRA, arXiv:2406.13175."""
    weight = as_rows(base.weight, layer.kind).clone()  # type: ignore[arg-type]
    for adapter in adapters:
        rows, columns = adapter.tensors["shira_indices"].long()
        values = adapter.scale * adapter.tensors["shira_weight"]
        weight.index_put_((rows, columns), values, accumulate=True)
    return {"weight": as_rows(weight, layer.kind)}


def c3a(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W + C / inputs, C of circulant blocks: entry (i, j) of a block is c[(j - i) mod b].

    Chen et al., C3A, arXiv:2407.19342; the division by the inputs is peft's.
    """
    import torch

    weight: Tensor = base.weight  # type: ignore[assignment]
    for adapter in adapters:
        kernel = adapter.tensors["c3a_kernel"]  # (outputs / b, inputs / b, b)
        places = torch.arange(kernel.shape[-1])
        blocks = kernel[..., (places - places[:, None]) % kernel.shape[-1]]
        matrix = blocks.permute(0, 2, 1, 3).reshape(weight.shape)
        weight = weight + matrix / layer.inputs
    return {"weight": weight}


def _default_start(settings: Mapping[str, Any]) -> bool:
    """Return whether the start is the default one, which most of these promise to be no change."""
    return bool(settings["init_weights"])


def _started_true(settings: Mapping[str, Any]) -> bool:
    return settings["init_weights"] is True


def _never(_settings: Mapping[str, Any]) -> bool:
    return False


def _dropout(settings: Mapping[str, Any]) -> bool:
    return any(value for name, value in settings.items() if name.endswith("dropout"))


def _divides(text: str, module: str) -> Limit:
    return Limit(
        message=text,
        source=f"error text of peft.tuners.{module}",
        error="ValueError",
        stage="wrap",
    )


def _other(name: str, config: str, source: str, **changed: Any) -> Method:
    defaults: dict[str, Any] = {
        "kinds": _LINEAR,
        "abilities": _MERGES,
        "identity": _default_start,
        "random": _dropout,
    }
    return Method(name=name, config=config, source=source, **{**defaults, **changed})


OTHERS: Final = (
    _other(
        "c3a",
        "C3AConfig",
        "arXiv:2407.19342",
        formula=c3a,
        trains=("c3a_kernel",),
        identity=_started_true,
    ),
    _other("shira", "ShiraConfig", "arXiv:2406.13175", formula=shira, trains=("shira_weight",)),
    _other(
        "vblora",
        "VBLoRAConfig",
        "arXiv:2405.15179",
        kinds=_BOTH,
        needed=frozenset({"num_vectors", "vector_length"}),
        identity=_never,
    ),
    _other(
        "randlora",
        "RandLoraConfig",
        "arXiv:2502.00987",
        kinds=_BOTH,
        limits=(_divides("or greater is required|PRNG key|save_projection", "randlora"),),
    ),
    _other("miss", "MissConfig", "arXiv:2409.15371"),
    _other("bone", "BoneConfig", "arXiv:2409.15371"),
    _other(
        "ln_tuning",
        "LNTuningConfig",
        "arXiv:2312.11420",
        kinds=frozenset[Any]({"conv2d", "linear"}),
        abilities=frozenset({"merge", "unmerge"}),
        exchanges=True,
        identity=lambda _settings: True,
        random=_never,
    ),
    _other("road", "RoadConfig", "arXiv:2409.00119", needed=frozenset({"group_size"})),
    _other("gralora", "GraloraConfig", "arXiv:2505.20355", kinds=_BOTH),
    _other("delora", "DeloraConfig", "arXiv:2503.18225"),
    _other("waveft", "WaveFTConfig", "arXiv:2505.12532", kinds=_BOTH),
    _other("psoft", "PsoftConfig", "documentation of peft: PSOFT"),
    _other(
        "tinylora",
        "TinyLoraConfig",
        "documentation of peft: TinyLoRA",
        kinds=_BOTH,
        identity=_started_true,
    ),
    _other("frod", "FrodConfig", "documentation of peft: FRoD", kinds=_BOTH),
    _other("peanut", "PeanutConfig", "documentation of peft: PEANuT"),
    _other("glora", "GloraConfig", "arXiv:2306.07967"),
    _other(
        "osf",
        "OSFConfig",
        "documentation of peft: OSF",
        abilities=frozenset({"merge"}),
        random=_never,
    ),
    _other("beft", "BeftConfig", "documentation of peft: BEFT"),
    _other(
        "unilora", "UniLoraConfig", "documentation of peft: UniLoRA", kinds=_BOTH, identity=_never
    ),
    _other(
        "pvera",
        "PveraConfig",
        "documentation of peft: PVeRA",
        kinds=_BOTH,
        random=lambda _settings: True,
    ),
    _other(
        "lily",
        "LilyConfig",
        "documentation of peft: Lily",
        abilities=frozenset({"several_active"}),
    ),
    _other(
        "deft",
        "DeftConfig",
        "documentation of peft: DEFT",
        kinds=_BOTH,
        identity=lambda settings: bool(settings["init_weights"]) and not settings["para"],
    ),
)
