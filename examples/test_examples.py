"""Measure each example and judge it by its baseline."""

import pytest

from peft_regress import case_params


@pytest.mark.parametrize("case", case_params())
def test_example(case, peft_regress):
    peft_regress(case)
