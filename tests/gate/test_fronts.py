"""Which cases left the front of accuracy against cost."""

import pytest
from builders import compare, make_record, observe_all

from peft_regress.gate.comparison import Invocation
from peft_regress.gate.fronts import lost_fronts
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.runs.schema import Inputs

A, B, C = (f"shift/lora-r{rank}/resnet18" for rank in (1, 2, 4))


def record(name, accuracy, peak, *, flops=None):
    metrics = {"accuracy": [accuracy] * 3, "peak_bytes": peak}
    if flops is not None:
        metrics |= dict.fromkeys(("forward_flops", "backward_flops", "optimizer_flops"), flops)
    return make_record(name, metrics)


def lost(old, new):
    found = lost_fronts(observe_all(old), observe_all(new), policy=DEFAULT_POLICY)
    return [(one.case, one.cost, one.beaten_by) for one in found]


OLD = [record(A, 0.80, 100), record(B, 0.90, 200)]


OTHER_TASK = "unseen/lora-r1/resnet18"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # It costs more than a better one; or still less.
        (OLD, [record(A, 0.80, 201), record(B, 0.90, 200)], [(A, "peak_bytes", B)]),
        (OLD, [record(A, 0.80, 199), record(B, 0.90, 200)], []),
        # It is less accurate than a cheaper one; or within the margin, before or now.
        (OLD, [record(A, 0.80, 100), record(B, 0.79, 200)], [(B, "peak_bytes", A)]),
        (OLD, [record(A, 0.82, 100), record(B, 0.86, 200)], []),
        (
            [record(A, 0.86, 100), record(B, 0.90, 200)],
            [record(A, 0.91, 100), record(B, 0.90, 200)],
            [],
        ),
        # Cases that cost the same compete.
        (
            [record(A, 0.80, 100), record(B, 0.90, 100)],
            [record(A, 0.92, 100), record(B, 0.90, 100)],
            [(B, "peak_bytes", A)],
        ),
        # The FLOPs of an update are a front of their own.
        (
            [record(A, 0.80, 100, flops=10), record(B, 0.90, 200, flops=20)],
            [record(A, 0.80, 100, flops=21), record(B, 0.90, 200, flops=20)],
            [(A, "update FLOPs", B)],
        ),
        # A case that was added beats none, and one of another task is on another front.
        (OLD, [*OLD, record(C, 0.99, 1)], []),
        ([record(OTHER_TASK, 0.80, 100), OLD[1]], [record(OTHER_TASK, 0.80, 300), OLD[1]], []),
    ],
)
def test_a_case_left_the_front_if_one_that_costs_no_more_is_now_as_accurate(old, new, expected):
    assert lost(old, new) == expected


@pytest.mark.parametrize("change", ["error", "definition", "inputs"])
def test_a_case_that_cannot_be_compared_beats_none_and_loses_nothing(change):
    metrics = {"accuracy": [0.95] * 3, "peak_bytes": 1}
    odd = {
        "error": make_record(C, status="error"),
        "definition": make_record(C, metrics, definition="sha256:other"),
        "inputs": make_record(C, metrics, inputs=Inputs(optimizer=[{"lr": 1.0}])),
    }[change]
    before = make_record(
        C, {"accuracy": [0.1] * 3, "peak_bytes": 1}, inputs=Inputs(optimizer=[{"lr": 2.0}])
    )
    assert lost([*OLD, before], [*OLD, odd]) == []


def test_a_strict_run_with_a_lost_front_fails_by_that_alone():
    # 0.04 each are within the margin; together they change the order.
    old = [record(A, 0.80, 100), record(B, 0.86, 200)]
    new = [record(A, 0.84, 100), record(B, 0.82, 200)]
    verdicts = {
        strict: compare(old, new, invocation=Invocation(strict=strict)) for strict in (0, 1)
    }
    assert [verdicts[strict].exit_code for strict in (0, 1)] == [0, 1]
    assert [[one.case for one in verdicts[strict].fronts] for strict in (0, 1)] == [[B], [B]]
    assert [case.id for case in verdicts[1].red] == [B]
    assert verdicts[0].red == ()
