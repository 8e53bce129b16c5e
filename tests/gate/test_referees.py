"""Where float32 rounds otherwise, the training in float64 judges."""

import pytest
from builders import (
    LORA,
    OTHER_MACHINE,
    VALUES,
    compare,
    curve,
    observe,
    referee,
    repeating,
    trained,
)

from peft_regress.gate import judge_case
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.gate.repeats import curves_of
from peft_regress.report import verdict_text

LOSSES = [[2.0, 2.0, 2.0, 2.0]] * 3
"""First losses."""
HERE = {**VALUES, "first_losses": LOSSES}


def there(*, differ=(), **more):
    """Return what another kind of machine measures: every number of its curve differs a little."""
    losses = [[loss * (1 + change) for loss, change in zip(LOSSES[0], differ, strict=False)]]
    metrics = {**HERE, "first_losses": [[*losses[0], *LOSSES[0][len(differ) :]], *LOSSES[1:]]}
    return trained(metrics=metrics, **{"curve": curve(0, by=1e-6), "referee": referee(), **more})


def said(new, old=None):
    """Return the verdict, the subjects of the reasons, and the remarks on the training."""
    old = observe(old or trained(metrics=HERE, referee=referee()), machine=OTHER_MACHINE)
    case = judge_case(LORA, old, observe(new))
    remarks = [one.kind for one in case.remarks if one.subject == "training"]
    return case.verdict, [one.name for one in case.reasons], remarks


ROUNDING = ("unchanged", [], ["rounding only"])
BOUNDS = ("unchanged", [], ["by bounds"])
CURVE = ("regressed", ["curve"], [])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (referee(), ROUNDING),
        (referee(0, by=1e-10), ROUNDING),
        (referee(0), CURVE),
        (referee(11, "gradients"), CURVE),
        (referee(11, "updates"), CURVE),
        (referee(loss=0.31), ("regressed", ["evaluation"], [])),
        (referee(accuracy=0.901), ("regressed", ["evaluation"], [])),
        ("float64 raises RuntimeError", BOUNDS),
    ],
)
def test_the_referee_tells_rounding_from_another_computation(other, expected):
    assert said(there(referee=other)) == expected


@pytest.mark.parametrize("what", ["losses", "gradients", "updates"])
def test_the_message_names_the_first_step_that_differs_and_what_differs_in_it(what):
    word = {"losses": "loss", "gradients": "gradient norm", "updates": "update norm"}[what]
    old = trained(metrics=HERE, referee=referee())
    text = verdict_text(compare([old], [there(referee=referee(6, what))]))
    assert f"computes something else from step 7 on: {word} 1.7" in text


@pytest.mark.parametrize(
    ("moved", "other", "expected"),
    [
        # The bound follows from how far nearby weights move a number ...
        ([1e-13] * 5 + [1e-9] * 8, referee(8, by=5e-8), ROUNDING),
        ([1e-13] * 5 + [1e-9] * 8, referee(8, by=5e-7), CURVE),
        ([1e-13] * 5 + [1e-9] * 8, referee(3, by=5e-8), CURVE),
        # ... and where it has grown too large, nothing is judged, so nothing is a repeat.
        ([1e-13] * 5 + [1e-3] * 8, referee(8, by=1e-2), BOUNDS),
        ([1e-13] * 5 + [1e-3] * 8, referee(3, by=1e-2), CURVE),
        ([1e-13] * 12 + [1e-3], referee(loss=0.31), BOUNDS),
    ],
)
def test_it_judges_as_far_as_rounding_leaves_something_to_judge(moved, other, expected):
    old = trained(metrics=HERE, referee=referee(moved=moved))
    assert said(there(referee=other), old) == expected


def test_on_a_machine_whose_curve_departs_the_referee_judges_too():
    old = observe(trained(metrics=HERE, referee=referee()))
    for other, verdict in ((referee(), "unchanged"), (referee(7), "regressed")):
        early = there(curve=curve(2), referee=other)
        assert judge_case(LORA, old, observe(early)).verdict == verdict


def test_a_late_change_of_float32_alone_is_seen_at_home():
    old = observe(trained(metrics=HERE, referee=referee()))
    case = judge_case(LORA, old, observe(there(curve=curve(9))))
    assert [one.name for one in case.reasons] == ["curve"]
    assert "in float64" not in case.reasons[0].old


def test_the_first_losses_are_judged_less_where_the_referees_agree():
    first, second = DEFAULT_POLICY.fingerprint_bound[:2]
    late = (0.0, 5 * second)
    assert said(there(differ=late)) == ROUNDING
    assert said(there(differ=late, referee="none"))[0] == "regressed"
    assert said(there(differ=(0.0, 20 * second)))[0] == "regressed"
    assert said(there(differ=(2 * first,)))[0] == "regressed"


def test_what_repeats_by_its_referee_has_the_scores_of_the_reference():
    assert said(repeating(there())) == ROUNDING
    verdict, reasons, _ = said(repeating(there(referee=referee(7))))
    assert (verdict, reasons) == ("regressed", ["curve", "training"])


@pytest.mark.parametrize(
    ("ours", "scores", "agrees"),
    [
        (referee(), {}, True),
        (referee(), {"loss": 0.31, "accuracy": 0.94}, True),
        (referee(), {"loss": 0.40}, False),
        (referee(), {"accuracy": 0.80}, False),
        (referee(), {"iou": 0.5}, False),
        (referee(11, "updates"), {}, False),
        (referee(accuracy=0.5), {}, False),
        (None, {}, False),
    ],
)
def test_a_training_repeats_another_if_both_agree_in_float64_with_near_scores(ours, scores, agrees):
    (known,) = curves_of(observe(trained(referee=referee())))
    assert known.agrees(curve(0, **scores), ours) == agrees


def test_a_partly_judged_referee_is_never_repeated():
    partly = referee(moved=[1e-13] * 9 + [1e-3] * 4)
    (known,) = curves_of(observe(trained(referee=partly)))
    assert not known.agrees(curve(), partly)
