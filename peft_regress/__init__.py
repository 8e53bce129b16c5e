"""A regression gate for the cost and the function of parameter-efficient fine-tuning.

A benchmark is two lines::

    @pytest.mark.parametrize("case", peft_regress.case_params("shift"))
    def test_distribution_shift(case, peft_regress):
        peft_regress(case)

Importing this package imports no torch.
"""

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import case_params, matrix_cases
from peft_regress.catalogue.tasks.digits import load_digits
from peft_regress.errors import PeftRegressError
from peft_regress.imports import drop_noise
from peft_regress.memory import lean
from peft_regress.project.budgets import Bound, Budget
from peft_regress.project.fine_tune import FineTune, NamedConfig, OwnMetric
from peft_regress.project.script import Script

__all__ = [
    "Bound",
    "Budget",
    "Case",
    "FineTune",
    "NamedConfig",
    "OwnMetric",
    "PeftRegressError",
    "Script",
    "case_params",
    "lean",
    "load_digits",
    "matrix_cases",
    "registry",
]

# Before any of the libraries is imported, whoever imports it.
drop_noise()
