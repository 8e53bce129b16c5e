"""Adapt to the same shift with the other methods (`--regress-matrix extended`)."""

import pytest

from peft_regress import case_params


@pytest.mark.parametrize("case", case_params("shift", matrix="extended"))
def test_extended_methods(case, peft_regress):
    peft_regress(case)
