"""Adapt a small language model by each adapter type of peft (`--regress-matrix language`)."""

import pytest

from peft_regress import case_params


@pytest.mark.parametrize("case", case_params(matrix="language"))
def test_language(case, peft_regress):
    peft_regress(case)
