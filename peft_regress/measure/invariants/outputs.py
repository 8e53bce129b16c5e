"""The outputs of a model on a few images, and when two of them agree."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final, TypeVar

import torch

from peft_regress.measure.training import single_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from peft_regress.catalogue.methods.protocol import BaseDtype

# Bounds on the largest difference of two outputs, relative to the largest logit. Identity and
# merging are judged in float32 for every base: in bfloat16 a correct merge is off by up to 0.15,
# since the rounded weight loses a small update. Correct libraries gave, on the four default
# architectures after 22 steps: 0 for reloading; 0 for identity, or up to 1.8e-6 if the weight is
# computed again (HRA); up to 5.1e-6 for merging, which changes the order of sums. The margin is for
# other processors; a merge that scales one layer wrongly is off by 1e-4 and more. On a bfloat16
# base the start itself is rounded: the residual weight of PiSSA and OLoRA (2e-4), and DoRA's
# magnitude (1e-2).
IDENTITY_TOLERANCE: Final[dict[BaseDtype, float]] = {"float32": 1e-5, "bfloat16": 3e-2}
MERGE_TOLERANCE: Final = 3e-5
RELOAD_TOLERANCE: Final = 1e-6
# Another machine computed the stored output, in float32: the same bound as for merging.
STORED_TOLERANCE: Final = 3e-5

T = TypeVar("T")


def attempt(action: Callable[[], T]) -> tuple[bool, T | None]:
    """Return (whether it worked, its result): if the library raises, the fact does not hold."""
    try:
        return True, action()
    except Exception:  # noqa: BLE001  (whatever a library raises, the fact does not hold)
        return False, None


def in_float32(model: nn.Module, probe: Tensor) -> tuple[nn.Module, Tensor]:
    """Return the model and its input in float32; a model of another type is copied."""
    if probe.dtype == torch.float32:
        return model, probe
    return copy.deepcopy(model).float(), probe.float()


@single_thread()
def output(model: nn.Module, probe: Tensor) -> Tensor:
    """Return the logits (count, classes) in eval mode, and restore each module's mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            return model(probe).float().clone()  # type: ignore[no-any-return]
    finally:
        for module, mode in modes.items():
            module.training = mode


def agree(one: Tensor, other: Tensor, *, tolerance: float) -> bool:
    """Compare logits relative to their size, since untrained nets have logits near 0.003."""
    if one.shape != other.shape or not bool(torch.isfinite(one).all()):
        return False
    return bool((one - other).abs().max() <= tolerance * other.abs().max())
