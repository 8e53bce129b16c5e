"""Reproduce each printed figure of a training step in arXiv 2507.23536, in its setting.

docs/paper.md shows the same figures and explains them.
"""

import pytest
from paper_rows import FLOP_FIGURES, GIGA, MEMORY_FIGURES, counted, measured

BACKWARD_FIGURES = [figure for figure in FLOP_FIGURES if figure.name == "backward"]


@pytest.mark.parametrize("figure", MEMORY_FIGURES, ids=str)
def test_memory(figure):
    tolerance = 0.1 if figure.name == "total" else 0.05
    assert figure.measured_mib() == pytest.approx(float(figure.printed), abs=tolerance)


@pytest.mark.parametrize("figure", FLOP_FIGURES, ids=str)
def test_flops_by_the_papers_counter(figure):
    assert figure.counted_gflops() == pytest.approx(float(figure.printed), abs=figure.half_digit)


@pytest.mark.parametrize("figure", BACKWARD_FIGURES, ids=str)
def test_flops_by_torchs_counter_and_what_it_does_not_count(figure):
    count = counted(figure.row)
    uncounted = (
        count.piece("additions in gradients")
        + count.piece("add", "forward", "backward")
        + count.piece("mul", "forward", "backward")
        + count.piece("mm", "forward")  # DoRA's product of B and A, which torch's has in forward
    )
    gflops = (measured(figure.row).step.paper_backward_flops + uncounted) / GIGA
    assert gflops == pytest.approx(float(figure.printed), abs=figure.half_digit)
