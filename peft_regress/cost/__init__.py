"""What one training step costs, in FLOPs and in bytes, by phase, category and module."""

from peft_regress.cost.formulas import UncountedOperatorError, register_flop_formula
from peft_regress.cost.memory import ByteSite
from peft_regress.cost.profile import profile_step
from peft_regress.cost.refusals import NothingToTrainError, UnprofilableModelError
from peft_regress.cost.step_cost import FlopSite, Loss, StepCost

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
