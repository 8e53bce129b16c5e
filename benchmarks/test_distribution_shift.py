"""Adapt to a distribution shift: the same digits from another scanner at another resolution."""

import pytest

from peft_regress import case_params


@pytest.mark.parametrize("case", case_params("shift"))
def test_distribution_shift(case, peft_regress):
    peft_regress(case)
