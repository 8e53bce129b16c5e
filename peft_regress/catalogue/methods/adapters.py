"""A table of peft's methods for convolutions. No torch at import.

docs/methods.md describes each one, and says why other methods of peft are not here.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

from peft_regress.cases import BFLOAT16_SUFFIX, Json
from peft_regress.catalogue.methods.adapter_shapes import (
    BLOCK_SIZE,
    adalora_shapes,
    boft_shapes,
    dora_shapes,
    factored_shapes,
    hira_shapes,
    hra_shapes,
    ia3_shapes,
    loha_shapes,
    loha_tucker_shapes,
    lokr_shapes,
    lora_fa_shapes,
    lora_shapes,
    norm_shapes,
    oft_shapes,
)
from peft_regress.catalogue.methods.method import ADAMW_SETTINGS
from peft_regress.catalogue.methods.peft_adapter import PeftAdapter
from peft_regress.catalogue.methods.targets import Targets
from peft_regress.errors import UnsupportedCaseError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


_WITH_GROUPED: Final = Targets(description="Conv2d and Linear, the head excluded", grouped=True)
_GROUPED_ALONE: Final = Targets(
    description="Conv2d with groups > 1, the head excluded", grouped=True, ungrouped=False
)
_LINEAR_FIRST: Final = Targets(
    description="Linear besides the head, or without one Conv2d with groups == 1",
    linear_first=True,
)
_IN_BLOCKS: Final = Targets(
    description=f"Conv2d with groups == 1 and Linear whose inputs a block of {BLOCK_SIZE} divides, "
    "the head excluded",
    block_size=BLOCK_SIZE,
)
# HRA and BOFT multiply matrices of inputs x inputs at every step. A step of batch 32 on all layers
# of resnet18 takes HRA 20 seconds and BOFT 46, on layers of at most this size less than one.
_MOST_INPUTS: Final = 1024
_NARROW: Final = Targets(
    description=f"Conv2d with groups == 1 and Linear of at most {_MOST_INPUTS} inputs, the head "
    "excluded",
    most_inputs=_MOST_INPUTS,
)
_NARROW_IN_BLOCKS: Final = Targets(
    description=f"Conv2d with groups == 1 and Linear of at most {_MOST_INPUTS} inputs, which a "
    f"block of {BLOCK_SIZE} divides, the head excluded",
    block_size=BLOCK_SIZE,
    most_inputs=_MOST_INPUTS,
)
_NORMALIZATION: Final = Targets(
    description="normalization layers with a weight", normalization=True
)

_LORA_PLUS_RATIO: Final = 4
# The budget falls from the initial to the target rank between these of the 22 steps of a run. That
# is after the first losses, so they are a fingerprint of the method and not of its masks.
_ADALORA_SCHEDULE: Final[dict[str, Json]] = {
    "total_step": 22,
    "tinit": 4,
    "tfinal": 8,
    "deltaT": 2,
    "beta1": 0.85,
    "beta2": 0.85,
}


def _lora(rank: int | None, **more: Json) -> dict[str, Json]:
    """Return LoRA's settings; alpha equals the rank, so the scaling is 1."""
    return {"r": rank, "lora_alpha": rank, "lora_dropout": 0.0, **more}


def _adalora(rank: int | None) -> dict[str, Json]:
    target = rank or 0
    return {
        "init_r": _adalora_initial_rank(target),
        "target_r": target,
        "lora_alpha": target,
        "lora_dropout": 0.0,
        **_ADALORA_SCHEDULE,
    }


def _adalora_initial_rank(target: int) -> int:
    """Return AdaLoRA's rank at the start: 1.5 times the target, as in the paper."""
    return target + (target + 1) // 2


def _loha(rank: int | None, **more: Json) -> dict[str, Json]:
    return {"r": rank, "alpha": rank, **more}


def _lokr(rank: int | None, **more: Json) -> dict[str, Json]:
    """Return LoKr's settings; the scaling is 2, so a release that forgets to scale is noticed.

    peft before 0.14 forgot it; alpha equal to the rank would have hidden that.
    """
    return {"r": rank, "alpha": 2 * (rank or 0), **more}


def _optimizer_function(name: str) -> Callable[..., Any]:
    optimizers = import_module("peft.optimizers")
    function = getattr(optimizers, name, None)
    if function is None:
        version = import_module("peft").__version__
        raise UnsupportedCaseError(f"peft {version} has no {name} in peft.optimizers")
    return cast("Callable[..., Any]", function)


def _lora_plus_optimizer(method: PeftAdapter, model: nn.Module, _rank: int | None) -> Optimizer:
    import torch  # listing names must not cost the import

    optimizer = _optimizer_function("create_loraplus_optimizer")(
        model,
        torch.optim.AdamW,
        lr=method.learning_rate,
        loraplus_lr_ratio=_LORA_PLUS_RATIO,
        betas=(0.9, 0.999),
        eps=1e-6,
        foreach=False,
        fused=False,
    )
    return cast("Optimizer", optimizer)


def _lora_fa_optimizer(method: PeftAdapter, model: nn.Module, rank: int | None) -> Optimizer:
    optimizer = _optimizer_function("create_lorafa_optimizer")(
        model, r=rank, lora_alpha=rank, lr=method.learning_rate, weight_decay=0.0
    )
    return cast("Optimizer", optimizer)


def _adalora_optimizer(method: PeftAdapter, model: nn.Module, _rank: int | None) -> Optimizer:
    """Return AdamW after whose steps AdaLoRA allocates its budget, while gradients exist."""
    optimizer = method.adamw(model)
    steps = itertools.count(1)

    def allocate(*_arguments: object) -> None:
        cast("Any", model).base_model.update_and_allocate(next(steps))

    optimizer.register_step_post_hook(allocate)
    return optimizer


@contextlib.contextmanager
def _without_cuda_extension() -> Iterator[None]:
    """Make BOFT use its Python code, its own fallback.

    If there is a CUDA compiler, peft builds a kernel at the first layer and then uses it also
    for CPU tensors. Without one it tries at every layer, and warns.
    """
    layer = import_module("peft.tuners.boft.layer")
    before = getattr(layer, "_FBD_CUDA", None)
    layer._FBD_CUDA = False  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        yield
    finally:
        layer._FBD_CUDA = before  # type: ignore[attr-defined]  # noqa: SLF001


LORA: Final = PeftAdapter(
    name="lora",
    learning_rate=4e-3,
    config="LoraConfig",
    settings=lambda rank: _lora(rank, use_dora=False),
    shapes=lora_shapes,
    ranks=(1, 4, 16),
    matrices=("default",),
)
DORA: Final = replace(
    LORA,
    name="dora",
    settings=lambda rank: _lora(rank, use_dora=True),
    shapes=dora_shapes,
    scales=(".lora_magnitude_vector.",),
)
_RSLORA: Final = replace(
    LORA,
    name="rslora",
    settings=lambda rank: _lora(rank, use_rslora=True),
    ranks=(4,),
    matrices=("extended",),
)
_PISSA: Final = replace(
    _RSLORA,
    name="pissa",
    learning_rate=1e-2,
    settings=lambda rank: _lora(rank, init_lora_weights="pissa"),
    shapes=factored_shapes,
    targets=_LINEAR_FIRST,
)
_LOHA: Final = PeftAdapter(
    name="loha",
    learning_rate=1e-2,
    config="LoHaConfig",
    settings=_loha,
    shapes=loha_shapes,
    targets=_WITH_GROUPED,
)
_LOKR: Final = replace(
    _LOHA, name="lokr", learning_rate=5e-3, config="LoKrConfig", settings=_lokr, shapes=lokr_shapes
)

_FLOAT32: Final = (
    LORA,
    DORA,
    _RSLORA,
    replace(
        _RSLORA,
        name="loraplus",
        learning_rate=2e-3,
        settings=_lora,
        optimizer=_lora_plus_optimizer,
        optimizer_settings={**ADAMW_SETTINGS, "loraplus_lr_ratio": _LORA_PLUS_RATIO},
    ),
    replace(
        _RSLORA,
        name="lorafa",
        learning_rate=1e-2,
        settings=_lora,
        shapes=lora_fa_shapes,
        targets=_LINEAR_FIRST,
        optimizer=_lora_fa_optimizer,
        optimizer_settings={**ADAMW_SETTINGS, "optimizer": "LoraFAOptimizer"},
        frozen=".lora_A.",
    ),
    _PISSA,
    replace(_PISSA, name="olora", settings=lambda rank: _lora(rank, init_lora_weights="olora")),
    PeftAdapter(
        name="adalora",
        learning_rate=1e-2,
        config="AdaLoraConfig",
        settings=_adalora,
        shapes=lambda layer, rank: adalora_shapes(layer, _adalora_initial_rank(rank)),
        optimizer=_adalora_optimizer,
        prunes=(".lora_E.",),
    ),
    _LOHA,
    _LOKR,
    PeftAdapter(
        name="hira",
        learning_rate=1e-2,
        config="HiraConfig",
        settings=lambda rank: {"r": rank, "hira_dropout": 0.0},
        shapes=hira_shapes,
    ),
    PeftAdapter(
        name="hra",
        learning_rate=4e-3,
        config="HRAConfig",
        settings=lambda rank: {"r": rank},
        shapes=hra_shapes,
        targets=_NARROW,
        float32_numerics="hra",
    ),
    PeftAdapter(
        name="oft",
        learning_rate=4e-3,
        config="OFTConfig",
        settings=lambda _rank: {"r": 0, "oft_block_size": BLOCK_SIZE},
        shapes=oft_shapes,
        targets=_IN_BLOCKS,
        ranks=(),
    ),
    PeftAdapter(
        name="boft",
        learning_rate=4e-3,
        config="BOFTConfig",
        settings=lambda _rank: {"boft_block_size": BLOCK_SIZE, "boft_n_butterfly_factor": 1},
        shapes=boft_shapes,
        scales=(".boft_s.",),
        targets=_NARROW_IN_BLOCKS,
        ranks=(),
        wrapping=_without_cuda_extension,
    ),
    PeftAdapter(
        name="ia3",
        learning_rate=5e-3,
        config="IA3Config",
        settings=lambda _rank: {"feedforward_modules": []},
        shapes=ia3_shapes,
        scales=(".ia3_l.",),
        targets=_WITH_GROUPED,
        ranks=(),
    ),
    PeftAdapter(
        name="ln_tuning",
        learning_rate=4e-3,
        config="LNTuningConfig",
        settings=lambda _rank: {},
        shapes=norm_shapes,
        scales=(".ln_tuning_layers.",),
        targets=_NORMALIZATION,
        ranks=(),
    ),
)


# An optional product of LoHa and LoKr for convolutions.
_TUCKER: Final = (
    replace(
        _LOHA,
        name="loha-tucker",
        settings=lambda rank: _loha(rank, use_effective_conv2d=True),
        shapes=loha_tucker_shapes,
    ),
    replace(
        _LOKR,
        name="lokr-tucker",
        settings=lambda rank: _lokr(rank, use_effective_conv2d=True),
        shapes=lambda layer, rank: lokr_shapes(layer, rank, tucker=True),
    ),
)


def _on_bfloat16(method: PeftAdapter, *, matrices: tuple[str, ...] = ("extended",)) -> PeftAdapter:
    """Return the same method on a bfloat16 base; peft keeps the adapters in float32."""
    return replace(
        method,
        name=method.name + BFLOAT16_SUFFIX,
        base_dtype="bfloat16",
        matrices=matrices,
        ranks=method.ranks and (4,),
    )


# Nothing in peft's LoRA has changed as often as grouped convolutions. From 0.16 on the rank must be
# a multiple of a layer's groups: 96 is one in every layer of shufflenet_v2_x0_5. In mobilenet_v2 it
# is not, so peft refuses there, as in mobilenet_v3_small; resnet18 has no such layers.
GROUPED: Final = tuple(
    replace(
        method,
        name=f"{method.name}-grouped",
        targets=_GROUPED_ALONE,
        ranks=(96,),
        matrices=("extended",),
        architectures=("mobilenet_v2", "shufflenet_v2_x0_5"),
        # At each layer; `merge_equals_unmerged` says so once.
        expected_warning=".*groups > 1. Merging is not supported",
    )
    for method in (LORA, DORA)
)

ADAPTERS: Final = (
    *_FLOAT32,
    *GROUPED,
    *_TUCKER,
    *map(_on_bfloat16, _FLOAT32),
    *(_on_bfloat16(method, matrices=()) for method in _TUCKER),
)
