"""What could go wrong in the training loop."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional

from fault_catalogue.fault import fault

if TYPE_CHECKING:
    from torch import Tensor

    from fault_catalogue.fault import Original

_HEAD: Final = "shift/head/shufflenet_v2_x0_5"
_LORA: Final = "shift/lora-r4/shufflenet_v2_x0_5"
_FINETUNE: Final = "peft_regress.measure.recipe:finetune"


@fault("training loop", at=_FINETUNE, case=_HEAD)
def schedule_off_by_one(
    original: Original, model: Any, optimizer: Any, *rest: Any, **kwargs: Any
) -> Any:
    """Each step but the first has the learning rate of the step before it."""
    rates = [[group["lr"] for group in optimizer.param_groups]]

    def take_the_last(_optimizer: Any, *_: object) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])
        for group, rate in zip(optimizer.param_groups, rates[-2], strict=True):
            group["lr"] = rate

    optimizer.register_step_pre_hook(take_the_last)
    return original(model, optimizer, *rest, **kwargs)


@fault("training loop", at=_FINETUNE, case=_HEAD)
def schedule_left_out(
    original: Original, model: Any, optimizer: Any, *rest: Any, **kwargs: Any
) -> Any:
    """The learning rate stays at its peak."""
    peaks = [group["lr"] for group in optimizer.param_groups]

    def stay(_optimizer: Any, *_: object) -> None:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak

    optimizer.register_step_pre_hook(stay)
    return original(model, optimizer, *rest, **kwargs)


@fault("training loop", at=_FINETUNE, case=_HEAD, stops=True)
def last_step_left_out(
    original: Original, model: Any, optimizer: Any, batches: Any, loop: Any, **kwargs: Any
) -> Any:
    """Training stops one step early."""
    shorter = dataclasses.replace(loop, steps=loop.steps - 1)
    return original(model, optimizer, batches, shorter, **kwargs)


@fault("training loop", at=_FINETUNE, case=_HEAD)
def trained_under_autocast(original: Original, *args: Any, **kwargs: Any) -> Any:
    """Training runs under autocast to bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return original(*args, **kwargs)


@fault("training loop", at="peft_regress.measure.objective:cross_entropy", case=_HEAD)
def labels_smoothed(_original: Original, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss has label smoothing of 0.1."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=0.1)


@fault("training loop", at=_FINETUNE, case=_LORA)
def head_not_trained(
    original: Original, model: Any, optimizer: Any, *rest: Any, **kwargs: Any
) -> Any:
    """The head is trainable and has a gradient, but the optimizer does not have it."""
    head = {id(p) for name, p in model.named_parameters() if ".fc." in name}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in head]
    return original(model, optimizer, *rest, **kwargs)


@fault("training loop", at=_FINETUNE, case=_HEAD)
def gradients_clipped(
    original: Original, model: Any, optimizer: Any, *rest: Any, **kwargs: Any
) -> Any:
    """Gradients are clipped to a norm of 1, which was not asked for."""

    def clip(_optimizer: Any, *_: object) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    optimizer.register_step_pre_hook(clip)
    return original(model, optimizer, *rest, **kwargs)
