"""What the page knows of a line beside its values."""

from __future__ import annotations

import pytest
from builders import LORA, make_metric, make_record

from peft_regress.gate.policy import DEFAULT_POLICY, Bounds
from peft_regress.report.page.data import facts_of
from peft_regress.runs.schema import OwnBound


def facts(name, value, **fields):
    record = make_record(LORA, **fields)
    return facts_of(name, make_metric(name, value), Bounds.of(record))


def test_the_bound_is_that_of_the_gate_and_seeds_are_its_lowest_and_highest():
    assert facts("accuracy", [0.4, 0.6, 0.5]) == {
        "bound": DEFAULT_POLICY.accuracy_margin,
        "seeds": [0.4, 0.6],
    }
    assert facts("peak_bytes", 5) == {"bound": DEFAULT_POLICY.bytes_bound}
    own = OwnBound(bound=0.2, reason="noisy")
    assert facts("peak_bytes", 5, bounds={"peak_bytes": own}) == {"bound": 0.2}


@pytest.mark.parametrize("name", ["forward_flops", "paper_forward_flops", "relative_step_seconds"])
def test_what_may_not_change_and_what_nobody_judges_has_no_bound(name):
    assert facts(name, 5) == {}


def test_a_score_has_seeds_and_no_bound_but_its_authors():
    assert facts("score", [4.0, 6.0]) == {"seeds": [4.0, 6.0]}
