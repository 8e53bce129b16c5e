"""Export a training step and a forward pass as programs for ExecuTorch's runtime."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from peft_regress.cost.batches import leaves_of, map_batch, named_tensors
from peft_regress.cost.module_trail import module_names
from peft_regress.gc_pause import paused_gc
from peft_regress.measure.edge.errors import ProgramError, UnsupportedProgramError
from peft_regress.measure.edge.owners import Owners, annotate, owners_of_joint
from peft_regress.measure.edge.package import load, quiet, require_executorch
from peft_regress.measure.edge.program import Program, planned_program
from peft_regress.text import clean

Loss = Callable[[nn.Module, Any], Tensor]
Call = Callable[[nn.Module, Any], Any]

MODEL: Final = "model"
"""The name of the model in the exported module: its parameters are `model.<name>`."""
_LONGEST: Final = 300
_REFUSALS: Final = frozenset(
    {
        "GuardOnDataDependentSymNode",
        "NotImplementedError",
        "SpecViolationError",
        "Unsupported",
        "UserError",
    }
)
"""Errors by which torch and ExecuTorch say that they do not express something."""
_NO_KERNEL: Final = "Missing out variants"


def training_program(model: nn.Module, batch: Any, *, loss: Loss) -> Program:
    """Export forward pass, loss and backward pass of one training step, and plan its memory.

    The program takes the tensors of the batch in their order, of these shapes alone. It returns the
    loss and the gradients, and holds the trained parameters, which the optimizer changes in place.

    model: in the mode in which it trains; it is copied. batch: a tree of tensors. loss: (model,
    batch) -> scalar.

    Raises `InputError` without ExecuTorch, `UnsupportedProgramError` for a step that it does not
    express, `ProgramError` if it fails.
    """
    require_executorch(runs=False)
    return _planned(_Step(copy.deepcopy(model), batch, loss), batch)


def inference_program(model: nn.Module, batch: Any, *, call: Call) -> Program:
    """Export a forward pass in eval mode, and plan its memory.

    The program takes the tensors of the batch in their order, and returns the floating-point
    tensors of the output. Arguments and errors are those of `training_program`; call: runs the pass
    and returns its output.
    """
    require_executorch(runs=False)
    forward = _Forward(copy.deepcopy(model).eval().requires_grad_(requires_grad=False), batch, call)
    return _planned(forward, batch)


class _Step(nn.Module):
    """A model and its loss in one module; the inputs are the tensors of a batch."""

    def __init__(self, model: nn.Module, batch: Any, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._batch = batch
        self._loss = loss

    def forward(self, *leaves: Tensor) -> Tensor:
        return self._loss(self.model, filled(self._batch, leaves))


class _Forward(nn.Module):
    """A model's call as a module; the inputs are the tensors of a batch."""

    def __init__(self, model: nn.Module, batch: Any, call: Call) -> None:
        super().__init__()
        self.model = model
        self._batch = batch
        self._call = call

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        return floating_outputs(self._call(self.model, filled(self._batch, leaves)))


def filled(batch: Any, leaves: tuple[Tensor, ...]) -> Any:
    """Return a batch with its tensors replaced by others, in their order."""
    remaining = iter(leaves)
    return map_batch(batch, lambda _: next(remaining))


def floating_outputs(output: Any) -> tuple[Tensor, ...]:
    """Return the floating-point tensors in what a model returned."""
    return tuple(tensor for _, tensor in named_tensors(output) if tensor.is_floating_point())


def _planned(module: _Step | _Forward, batch: Any) -> Program:
    names = module_names(module.model)
    labels = {
        f"{MODEL}.{path}" if path else MODEL: names[each]
        for path, each in module.model.named_modules()
    }
    with _refused(), paused_gc():
        with quiet():
            graph = torch.export.export(module, tuple(leaves_of(batch)))
            is_step = isinstance(module, _Step)
            exported, owners = _joint(graph) if is_step else (graph, Owners())
        _check_buffers(exported)
        return planned_program(exported, owners=owners, labels=labels)


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Turn what the exporter raises into this case's state."""
    try:
        yield
    except (UnsupportedProgramError, ProgramError):
        raise
    except Exception as error:  # (whatever the exporter raises)
        raise _refusal(error) from error


def _check_buffers(exported: ExportedProgram) -> None:
    """Refuse a step that moves buffers, such as BatchNorm's statistics, and name the buffer."""
    for buffer in exported.graph_signature.buffers_to_mutate.values():
        name = buffer.removeprefix(f"{MODEL}.")
        raise UnsupportedProgramError(
            f"the step changes a buffer, {name}, which a program does not keep"
        )


def _joint(exported: ExportedProgram) -> tuple[ExportedProgram, Owners]:
    experimental = load("torch.export.experimental")
    annotate(exported.graph)
    with owners_of_joint() as found:
        joint = experimental._export_forward_backward(exported)  # noqa: SLF001
    return joint, Owners(found)


def _refusal(error: Exception) -> ProgramError | UnsupportedProgramError:
    """Return in one line what the exporter says."""
    kind = type(error).__name__
    said = clean(str(error), longest=_LONGEST)
    msg = f"{kind}: {said}" if said else kind
    if kind in _REFUSALS or _NO_KERNEL in said:
        return UnsupportedProgramError(msg)
    return ProgramError(msg)
