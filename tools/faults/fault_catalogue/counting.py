"""What the cost recorder of this project could get wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from fault_catalogue.fault import fault

if TYPE_CHECKING:
    from fault_catalogue.fault import Original

_FULL: Final = "shift/full/shufflenet_v2_x0_5"
_FORMULA: Final = "peft_regress.cost.operators:formula_of"
_RECORDER: Final = "peft_regress.cost.recorder:StepRecorder"
_BACKWARD: Final = torch.ops.aten.convolution_backward


@fault("counting", at=_FORMULA, case=_FULL)
def grouped_convolutions_counted_in_full(original: Original, packet: Any) -> Any:
    """The weight gradient of a grouped convolution counts as if it had no groups."""
    from peft_regress.cost.formulas import paper_formula_of

    return paper_formula_of(packet) if packet is _BACKWARD else original(packet)


@fault("counting", at=_FORMULA, case=_FULL)
def backward_pass_of_convolutions_not_counted(original: Original, packet: Any) -> Any:
    """The backward pass of a convolution counts as no work."""
    return _nothing if packet is _BACKWARD else original(packet)


def _nothing(*_args: Any, **_kwargs: Any) -> int:
    return 0


@fault("counting", at=_FORMULA, case=_FULL, stops=True)
def formula_lost(original: Original, packet: Any) -> Any:
    """The formula of the convolution is no longer registered."""
    return None if packet is torch.ops.aten.convolution else original(packet)


@fault(
    "counting",
    at=(_FORMULA, "peft_regress.cost.operators:does_matrix_work"),
    case=_FULL,
)
def operator_without_formula_counted_as_nothing(original: Original, asked: Any) -> Any:
    """An operator without a formula counts as no work instead of stopping the count."""
    if isinstance(asked, str):
        return False
    return None if asked is torch.ops.aten.convolution else original(asked)


@fault("counting", at=f"{_RECORDER}._hold_result", case=_FULL)
def optimizer_state_not_counted(original: Original, self: Any, *args: Any) -> None:
    """Memory that the optimizer allocates is not counted."""
    if self.phase != "optimizer":
        original(self, *args)


@fault("counting", at=f"{_RECORDER}._claim_gradient", case=_FULL)
def gradients_counted_as_temporaries(_original: Original, self: Any, *args: Any) -> None:
    """An accumulated gradient still counts as a temporary of the backward pass."""


@fault("counting", at=f"{_RECORDER}._free", case=_FULL)
def frees_missed(_original: Original, self: Any, holding: Any) -> None:
    """Memory that was freed still counts."""
    self._holdings.pop(holding.key, None)


@fault(
    "counting",
    at=("peft_regress.measure.step_profile:profile_batches", "peft_regress.cost.profile:mark"),
    case=_FULL,
)
def first_step_counted_too(original: Original, one: Any, *_: Any, **batches: Any) -> Any:
    """The reported step includes the step before it."""
    if batches:
        return None  # one model for two batches would notice, and each batch be profiled by itself
    found = original(one)
    one.marks = [*getattr(one, "marks", ()), found]
    # The first three marks are the start of the first step, and those of its phases.
    return one.marks[0] if len(one.marks) == 4 else found
