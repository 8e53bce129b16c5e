"""What training steps and forward passes cost, in FLOPs and bytes, by phase and module.

`training_cost` prices any module on any batch. `profile_training_step` is the step alone,
`profile_step` the step of a classifier of images, `profile_inference` a forward pass.
"""

from peft_regress.cost.batches import Call, RandomTensor, call_model
from peft_regress.cost.formulas import UncountedOperatorError, register_flop_formula
from peft_regress.cost.pricing import TrainingCost, training_cost
from peft_regress.cost.profile import (
    InferenceCost,
    profile_inference,
    profile_step,
    profile_training_step,
)
from peft_regress.cost.refusals import NeedsValuesError, NothingToTrainError, UnprofilableModelError
from peft_regress.cost.step_cost import ByteSite, FlopSite, Loss, StepCost, Tensors

__all__ = [
    "ByteSite", "Call", "FlopSite", "InferenceCost", "Loss", "NeedsValuesError",
    "NothingToTrainError", "RandomTensor", "StepCost", "Tensors", "TrainingCost",
    "UncountedOperatorError", "UnprofilableModelError", "call_model", "profile_inference",
    "profile_step", "profile_training_step", "register_flop_formula", "training_cost",
]  # fmt: skip
