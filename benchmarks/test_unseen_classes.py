"""Adapt to unseen classes: the source model knows five digits, the target has all ten."""

import pytest

from peft_regress import case_params


@pytest.mark.parametrize("case", case_params("unseen"))
def test_unseen_classes(case, peft_regress):
    peft_regress(case)
