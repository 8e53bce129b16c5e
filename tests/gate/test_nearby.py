"""What a case says of itself decides bounds: nearby losses, the number of test items, the rates."""

import msgspec
import pytest
from builders import (
    CURVE,
    LORA,
    OTHER_MACHINE,
    compare,
    find_origins,
    make_record,
    observe,
    repeating,
    trained,
)

from peft_regress.gate.judge import judge_case
from peft_regress.gate.policy import DEFAULT_POLICY, bounds_on, numerics_of
from peft_regress.gate.repeats import completed
from peft_regress.project.budgets import Bound
from peft_regress.report import case_text, verdict_text

LOSSES = [[2.0, 1.0, 0.5, 0.25], [2.0, 1.0, 0.5, 0.25]]
LEAST = DEFAULT_POLICY.nearby_least
USUAL = DEFAULT_POLICY.fingerprint_bound


def record(losses=LOSSES, **more):
    return make_record(LORA, {"first_losses": losses}, **more)


def bounds_of(one):
    return [*bounds_on("first_losses", one.metrics["first_losses"], one)]


def moved(*shares):
    """Return the losses, those of the second seed moved by these shares."""
    return [LOSSES[0], [a * (1 + b) for a, b in zip(LOSSES[1], shares, strict=True)]]


def judged(old, new):
    return judge_case(LORA, observe(old), observe(new, machine=OTHER_MACHINE))


@pytest.mark.parametrize(
    ("shares", "bounds"),
    [
        # Up to the next step.
        ((1e-4, 1e-4, -1e-3, 1e-2), [USUAL[0], 1e-3, 1e-2, 1e-2]),
        ((0, 1e-3, 1e-4, 1e-5), [USUAL[0], 1e-3, 1e-3, 1e-3]),
        # Not below the rounding of a forward pass, and not above the usual.
        ((0, 0, 1e-9, 0), [LEAST] * 4),
        ((9, 9, 9, 9), USUAL),
    ],
)
def test_losses_are_bounded_by_those_of_nearby_weights(shares, bounds):
    assert bounds_of(record(nearby_losses=moved(*shares))) == pytest.approx([*bounds])


def test_an_own_case_says_the_smallest_change_that_fails_it():
    losses = {"first_losses": LOSSES, "filled_losses": [[1.0]] * 2}
    wider = make_record(LORA, losses, bounds={"first_losses": Bound(bound=0.01, reason="r")})
    near = make_record(LORA, losses, nearby_losses=moved(0, 5e-4, 0, 0))
    words = "the smallest change that fails it:"
    for kind in ("fake tensors", "real tensors"):
        for side, bound in ((near, "4e-06"), (wider, "0.01")):
            own = msgspec.structs.replace(side, profiled_on=kind)
            comparison = compare([own], [own])
            text = " ".join(case_text(comparison.cases[0], comparison).split())
            assert f"{words} {bound} of the first loss, 3e-05 of the losses of a filled" in text
            assert words not in verdict_text(comparison)
    built_in = compare([wider], [wider])
    assert words not in case_text(built_in.cases[0], built_in)


def test_a_step_that_was_accepted_by_wider_bounds_is_no_drift_for_ever():
    first, other = [[2.0, 1.0, 0.5, 0.25]], [[2.0, 1.0, 0.5, 0.2505]]
    wide = record(first, nearby_losses=[[2.0, 1.0, 0.5, 0.26]])
    tight = record(other, nearby_losses=[[2.0, 1.0, 0.5, 0.25051]])
    for history in ([wide, tight], [record(first), record(other), tight, tight]):
        older = find_origins([(f"{n:04d}", one) for n, one in enumerate(history)])
        origin = older.get("first_losses")
        assert origin is None or origin.metric == tight.metrics["first_losses"]


def test_rounding_of_what_cancels_out_is_no_change():
    """As of a distance to the model that training starts from."""
    start = [[3e-9, 2e-6, 1e-4, 1.1e-3]]
    assert judged(record(start), record([[5e-9, *start[0][1:]]])).verdict == "unchanged"
    nothing = record([[0.0] * 4])
    assert judged(nothing, record([[0.0, 0.0, 1e-12, 0.0]])).verdict == "unchanged"
    assert judged(record(start), record([[3e-9, 4e-6, 1e-4, 1.1e-3]])).verdict == "regressed"


def test_in_half_precision_no_weights_are_nearby():
    one = record(nearby_losses=LOSSES, numerics="bfloat16")
    assert bounds_of(one) == [*DEFAULT_POLICY.bfloat16_fingerprint_bound]


def test_the_reference_decides_and_one_without_nearby_losses_has_the_usual_bounds():
    smooth, rough = ({"nearby_losses": moved(0, 0, 0, share)} for share in (1e-5, 0.1))
    new = moved(0, 0, 0, 1e-3)
    assert judged(record(**smooth), record(new, **rough)).verdict == "regressed"
    assert judged(record(**rough), record(new, **smooth)).verdict == "unchanged"
    assert judged(record(), record(new, **smooth)).verdict == "unchanged"


def test_a_repeating_case_is_stored_with_the_nearby_losses_of_its_training():
    full = trained(nearby_losses=LOSSES)
    assert completed(repeating(trained()), full).nearby_losses == LOSSES


@pytest.mark.parametrize(
    ("items", "seeds", "answers", "verdict"),
    [
        (16, 1, 2, "unchanged"),
        (16, 1, 3, "regressed"),
        (10, 3, 2, "unchanged"),
        (10, 3, 3, "regressed"),
        (597, 3, 89, "unchanged"),
        (597, 3, 90, "regressed"),
    ],
)
def test_two_answers_are_chance_however_few_test_items_there_are(items, seeds, answers, verdict):
    old, new = ([0.75 - lost / items] * seeds for lost in (0, answers / seeds))
    sides = (make_record(LORA, {"accuracy": one}, test_items=items) for one in (old, new))
    assert judged(*sides).verdict == verdict


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ([[0.5]], [[0.5]], None),
        ([[0.5]], [[0.5, 0.4]], ("learning rate after step 2", "0.5", "0.4")),
        ([[0.5, 0.25]], [[0.5]], ("learning rate after step 2", "0.25", "0.5")),
        (
            [[0.5], [0.1]], [[0.5], [0.2]],
            ("learning rate of group 1 after step 1", "0.1", "0.2"),
        ),
        ([[0.5], [0.1]], [[0.5]], ("number of learning rates", "2", "1")),
        ([[0.5], [0.5]], [[0.5]], None),
        ([[0.5, 1e-18]], [[0.5, 0.0]], None),
        ([[0.5]], None, None),
        (None, [[0.5]], None),
        ([], [[0.5]], ("number of learning rates", "0", "1")),
    ],
)  # fmt: skip
def test_rates_are_compared_but_for_their_last_bits(old, new, found):
    sides = (trained(**({} if rates is None else {"rates": rates})) for rates in (old, new))
    reasons = [(one.note, one.old, one.new) for one in judged(*sides).reasons]
    assert reasons == ([] if found is None else [found])


def test_an_equal_curve_does_not_hide_another_rate():
    """After the last step a rate decides no loss any more."""
    sides = [observe(trained(rates=[[0.5] * 11 + [last]], curve=CURVE)) for last in (0.1, 0.2)]
    assert judge_case(LORA, *sides).verdict == "regressed"


@pytest.mark.parametrize(
    ("method", "numerics"),
    [("lora", "usual"), ("hra", "hra"), ("hra-bf16", "bfloat16"), ("my-head", "usual")],
)
def test_a_record_states_its_numerics_or_has_those_of_its_method(method, numerics):
    name = f"shift/{method}-r4/resnet18"
    assert numerics_of(make_record(name)) == numerics
    assert numerics_of(make_record(name, numerics="head")) == "head"
