"""Measure what one forward pass costs once a model is trained: what ships is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from peft_regress.cost.batches import Call
from peft_regress.cost.stand_ins import on_fake_or_real, staged
from peft_regress.cost.step_cost import Tensors, highest


@dataclass(frozen=True, kw_only=True)
class InferenceCost:
    """The cost of one forward pass in eval mode, without gradients.

    FLOPs count a multiply-add as 2. Bytes are those of storages, unrounded.
    """

    inference_flops: int
    """Matrix work."""
    peak_bytes: int
    """The most bytes in use at one moment: parameters, buffers, the batch and activations."""
    tensors: Tensors = field(compare=False)
    """What the pass was measured on; the costs are the same."""


def call_model(model: nn.Module, batch: Any) -> Any:
    """Return what a model returns for a batch.

    A `Call` gives its arguments, a tuple or list positional ones, a mapping keyword arguments,
    anything else one argument.
    """
    if isinstance(batch, Call):
        return model(*batch.args, **batch.kwargs)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple | list):
        return model(*batch)
    return model(batch)


def profile_inference(model: nn.Module, batch: Any, *, fake: bool | None = None) -> InferenceCost:
    """Measure what one forward pass costs, to show adapters that are expensive to run.

    The second of two passes is measured, because some modules fill caches in the first. The
    copy that runs is in eval mode during both. Attention's inference-only kernels are
    off, as in a training step. An adapter counts as the model has it: attached or merged.

    Args:
        model: any module, with parameters that train or without.
        batch: a tree of tensors, which the model gets by `call_model`.
        fake: True measures on fake tensors and False on real copies; None on fake tensors where the
            model allows it, else on real copies. The result says which.

    Raises:
        NeedsValuesError: only with fake=True: the model's path depends on values, or an operator
            has no fake kernel.
        UnprofilableModelError: a tensor is sparse, or an operator hides its work.
        UncountedOperatorError: an operator does matrix work and has no FLOP formula.
    """

    def measure(*, fake: bool) -> InferenceCost:
        with staged(model, batch, fake=fake) as stage, torch.no_grad():
            copied, recorder = stage.model.eval(), stage.recorder
            with recorder:
                call_model(copied, stage.batch)
                start = recorder.mark()
                output = call_model(copied, stage.batch)
                end = recorder.mark()
                del output
        peak, _ = highest(recorder.memory_log[: end.memory], start=start.memory)
        return InferenceCost(
            inference_flops=sum(call.flops for call in recorder.flop_log[start.flops : end.flops]),
            peak_bytes=peak,
            tensors=stage.tensors,
        )

    return on_fake_or_real(measure) if fake is None else measure(fake=fake)
