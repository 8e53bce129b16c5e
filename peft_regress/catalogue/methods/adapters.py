"""A table of peft's methods for convolutions. No torch at import.

docs/methods.md describes each one, and says why other methods of peft are not here.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

from peft_regress.cases import BFLOAT16_SUFFIX, Json
from peft_regress.catalogue.methods import adapter_shapes as shapes
from peft_regress.catalogue.methods.adapter_shapes import BLOCK_SIZE
from peft_regress.catalogue.methods.method import Method, Shapes
from peft_regress.catalogue.methods.peft_adapter import PeftAdapter
from peft_regress.catalogue.methods.targets import Targets
from peft_regress.errors import UnsupportedCaseError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

# HRA and BOFT multiply matrices of inputs x inputs at every step. A step of batch 32 on all layers
# of resnet18 takes HRA 20 seconds and BOFT 46, on layers of at most this size less than one.
_MOST_INPUTS: Final = 1024
_OF_BLOCKS: Final = f"a block of {BLOCK_SIZE} divides, the head excluded"
_NARROW_LAYERS: Final = f"Conv2d with groups == 1 and Linear of at most {_MOST_INPUTS} inputs,"
_WITH_GROUPED: Final = Targets(description="Conv2d and Linear, the head excluded", grouped=True)
_LINEAR_FIRST: Final = Targets(
    description="Linear besides the head, or without one Conv2d with groups == 1", linear_first=True
)
_LORA_PLUS_RATIO: Final[dict[str, Json]] = {"loraplus_lr_ratio": 4}


def _adalora(rank: int | None) -> dict[str, Json]:
    ranks = {"init_r": _adalora_initial_rank(rank or 0), "target_r": rank}
    # The budget falls from the initial to the target rank between these of the 22 steps of a run.
    # That is after the first losses, so these show the method and not its masks.
    falls = {"total_step": 22, "tinit": 4, "tfinal": 8, "deltaT": 2, "beta1": 0.85, "beta2": 0.85}
    return {**ranks, "lora_alpha": rank, "lora_dropout": 0.0, **falls}


def _adalora_initial_rank(target: int) -> int:
    """Return AdaLoRA's rank at the start: 1.5 times the target, as in the paper."""
    return target + (target + 1) // 2


def _peft_optimizer(name: str, *args: Any, **settings: Any) -> Optimizer:
    make = getattr(import_module("peft.optimizers"), name, None)
    if make is None:
        version = import_module("peft").__version__
        raise UnsupportedCaseError(f"peft {version} has no {name} in peft.optimizers")
    return cast("Optimizer", make(*args, **settings))


def _lora_plus_optimizer(method: PeftAdapter, model: nn.Module) -> Optimizer:
    import torch  # listing names must not cost the import

    make, rates = torch.optim.AdamW, {"lr": method.learning_rate, **_LORA_PLUS_RATIO}
    settings = {"betas": (0.9, 0.999), "eps": 1e-6, "foreach": False, "fused": False}
    return _peft_optimizer("create_loraplus_optimizer", model, make, **rates, **settings)


def _lora_fa_optimizer(method: PeftAdapter, model: nn.Module) -> Optimizer:
    settings = {"r": method.rank, "lora_alpha": method.rank, "weight_decay": 0.0}
    return _peft_optimizer("create_lorafa_optimizer", model, lr=method.learning_rate, **settings)


def _adalora_optimizer(method: PeftAdapter, model: nn.Module) -> Optimizer:
    """Return AdamW after whose steps AdaLoRA allocates its budget, while gradients exist."""
    optimizer = Method.make_optimizer(method, model)
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
    from unittest import mock  # listing names must not cost the import

    layer = import_module("peft.tuners.boft.layer")
    with mock.patch.object(layer, "_FBD_CUDA", new=False, create=True):
        yield


def _of_lora(
    name: str,
    learning_rate: float,
    of_layer: Callable[[nn.Module, int], Shapes],
    settings: Mapping[str, Json],
    **more: Any,
) -> PeftAdapter:
    """Return a method of LoRA's class; alpha equals the rank, so the scaling is 1."""

    def all_settings(rank: int | None) -> Mapping[str, Json]:
        return {"r": rank, "lora_alpha": rank, "lora_dropout": 0.0, **settings}

    more |= {"learning_rate": learning_rate, "config": "LoraConfig"}
    return PeftAdapter(name=name, shapes=of_layer, settings=all_settings, **more)


_DEFAULT: Final[dict[str, Any]] = {"ranks": (1, 4, 16), "matrices": ("default",)}
LORA: Final = _of_lora("lora", 4e-3, shapes.lora_shapes, {"use_dora": False}, **_DEFAULT)
DORA: Final = _of_lora(
    "dora",
    4e-3,
    shapes.dora_shapes,
    {"use_dora": True},
    scales=(".lora_magnitude_vector.",),
    **_DEFAULT,
)
_AT_ONE_RANK: Final[dict[str, Any]] = {"ranks": (4,), "tasks": ("shift",)}
# Elsewhere dropout is off, so that a loss depends on the adapter and not on masks. Their effect is
# the same on every task.
LORA_DROPOUT: Final = _of_lora(
    "lora-dropout",
    4e-3,
    shapes.lora_shapes,
    {"lora_dropout": 0.1},
    trains_with_dropout=True,
    **{**_DEFAULT, **_AT_ONE_RANK},
)
_ELSEWHERE: Final = ("mobilenet_v3_small", "shufflenet_v2_x0_5")
_LOHA: Final = PeftAdapter(
    name="loha",
    learning_rate=1e-2,
    config="LoHaConfig",
    shapes=shapes.loha_shapes,
    settings=lambda rank: {"r": rank, "alpha": rank},
    targets=_WITH_GROUPED,
)
_LOKR: Final = PeftAdapter(
    name="lokr",
    learning_rate=5e-3,
    config="LoKrConfig",
    shapes=shapes.lokr_shapes,
    # The scaling is 2, so a release that forgets to scale is noticed: peft before 0.14 forgot it,
    # and alpha equal to the rank would have hidden that.
    settings=lambda rank: {"r": rank, "alpha": 2 * (rank or 0)},
    targets=_WITH_GROUPED,
)

_FLOAT32: Final = (
    LORA,
    DORA,
    _of_lora("rslora", 4e-3, shapes.lora_shapes, {"use_rslora": True}),
    _of_lora(
        "loraplus",
        2e-3,
        shapes.lora_shapes,
        {},
        optimizer=_lora_plus_optimizer,
        optimizer_settings=_LORA_PLUS_RATIO,
    ),
    _of_lora(
        "lorafa",
        1e-2,
        shapes.lora_fa_shapes,
        {},
        targets=_LINEAR_FIRST,
        optimizer=_lora_fa_optimizer,
        optimizer_settings={"optimizer": "LoraFAOptimizer"},
        frozen=".lora_A.",
    ),
    *(
        _of_lora(
            start, 1e-2, shapes.factored_shapes, {"init_lora_weights": start}, targets=_LINEAR_FIRST
        )
        for start in ("pissa", "olora")
    ),
    PeftAdapter(
        name="adalora",
        learning_rate=1e-2,
        config="AdaLoraConfig",
        shapes=lambda layer, rank: shapes.adalora_shapes(layer, _adalora_initial_rank(rank)),
        settings=_adalora,
        optimizer=_adalora_optimizer,
        prunes=(".lora_E.",),
    ),
    _LOHA,
    _LOKR,
    PeftAdapter(
        name="hira",
        learning_rate=1e-2,
        config="HiraConfig",
        shapes=shapes.hira_shapes,
        settings=lambda rank: {"r": rank, "hira_dropout": 0.0},
    ),
    PeftAdapter(
        name="hra",
        learning_rate=4e-3,
        config="HRAConfig",
        shapes=shapes.hra_shapes,
        settings=lambda rank: {"r": rank},
        targets=Targets(
            description=f"{_NARROW_LAYERS} the head excluded", most_inputs=_MOST_INPUTS
        ),
        float32_numerics="hra",
    ),
    PeftAdapter(
        name="oft",
        learning_rate=4e-3,
        config="OFTConfig",
        shapes=shapes.oft_shapes,
        settings=lambda _rank: {"r": 0, "oft_block_size": BLOCK_SIZE},
        targets=Targets(
            description=f"Conv2d with groups == 1 and Linear whose inputs {_OF_BLOCKS}",
            block_size=BLOCK_SIZE,
        ),
        ranks=(),
    ),
    PeftAdapter(
        name="boft",
        learning_rate=4e-3,
        config="BOFTConfig",
        shapes=shapes.boft_shapes,
        settings=lambda _rank: {"boft_block_size": BLOCK_SIZE, "boft_n_butterfly_factor": 1},
        scales=(".boft_s.",),
        targets=Targets(
            description=f"{_NARROW_LAYERS} which {_OF_BLOCKS}",
            block_size=BLOCK_SIZE,
            most_inputs=_MOST_INPUTS,
        ),
        ranks=(),
        wrapping=_without_cuda_extension,
    ),
    PeftAdapter(
        name="ia3",
        learning_rate=5e-3,
        config="IA3Config",
        shapes=shapes.ia3_shapes,
        settings=lambda _rank: {"feedforward_modules": []},
        scales=(".ia3_l.",),
        targets=_WITH_GROUPED,
        ranks=(),
    ),
    PeftAdapter(
        name="ln_tuning",
        learning_rate=4e-3,
        config="LNTuningConfig",
        shapes=shapes.norm_shapes,
        settings=lambda _rank: {},
        scales=(".ln_tuning_layers.",),
        targets=Targets(description="normalization layers with a weight", normalization=True),
        ranks=(),
    ),
)


def _by_tucker(method: PeftAdapter, of_layer: Callable[..., Shapes]) -> PeftAdapter:
    """Return the method with its optional product for convolutions."""

    def settings(rank: int | None) -> Mapping[str, Json]:
        return {**method.settings(rank), "use_effective_conv2d": True}

    name, by_tucker = f"{method.name}-tucker", partial(of_layer, tucker=True)
    return replace(method, name=name, settings=settings, shapes=by_tucker)


_TUCKER: Final = (_by_tucker(_LOHA, shapes.loha_shapes), _by_tucker(_LOKR, shapes.lokr_shapes))


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
        targets=Targets(
            description="Conv2d with groups > 1, the head excluded", grouped=True, ungrouped=False
        ),
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
    LORA_DROPOUT,
    replace(LORA, name="lora-lean", is_lean=True, extended_on=_ELSEWHERE, **_AT_ONE_RANK),
    replace(DORA, name="dora-lean", is_lean=True, matrices=("extended",), **_AT_ONE_RANK),
    *GROUPED,
    *_TUCKER,
    *map(_on_bfloat16, _FLOAT32),
    *(_on_bfloat16(method, matrices=()) for method in _TUCKER),
)
