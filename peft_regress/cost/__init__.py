"""What one training step costs, in FLOPs and in bytes, by phase, category and module."""

from peft_regress.cost.flops import UncountedOperatorError, register_flop_formula
from peft_regress.cost.memory import ByteSite
from peft_regress.cost.profile import (
    FlopSite,
    Loss,
    NothingToTrainError,
    StepCost,
    UnprofilableModelError,
    profile_step,
)

__all__ = [
    "ByteSite",
    "FlopSite",
    "Loss",
    "NothingToTrainError",
    "StepCost",
    "UncountedOperatorError",
    "UnprofilableModelError",
    "profile_step",
    "register_flop_formula",
]
