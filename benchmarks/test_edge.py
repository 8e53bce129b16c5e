"""Plan and run one step in ExecuTorch (`--regress-matrix edge`)."""

import pytest

from peft_regress import case_params


@pytest.mark.parametrize("case", case_params(matrix="edge"))
def test_edge(case, peft_regress):
    peft_regress(case)
