"""What the curve of the first seed tells, and how a case is judged that repeats a training."""

import msgspec
import pytest
from builders import (
    CURVE,
    FULL,
    LORA,
    MACHINE,
    OTHER_MACHINE,
    VALUES,
    compare,
    curve,
    judged,
    make_metric,
    make_record,
    observe,
    repeating,
    trained,
)

from peft_regress.gate import judge_case
from peft_regress.gate.repeats import known_curves
from peft_regress.project.budgets import Bound, Budget
from peft_regress.report import verdict_text
from peft_regress.runs.schema import MIXED_MACHINES, Inputs, TensorSummary

THERE = {"machine": OTHER_MACHINE}


def said(case):
    """Return the verdict, the subjects of the reasons, and the kinds of the remarks."""
    return case.verdict, [one.name for one in case.reasons], [one.kind for one in case.remarks]


SAME = ("unchanged", [], ["same curve"])
BOUNDS = ("unchanged", [], ["by bounds"])
UNKNOWN = ("incomparable", ["training"])
CURVE_DEPARTS = ("regressed", ["curve"], [])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (trained(), trained(), SAME),
        (trained(), trained(curve=curve(0)), BOUNDS),
        (trained(), trained(curve=curve(3)), BOUNDS),
        (trained(), trained(curve=curve(4)), CURVE_DEPARTS),
        (trained(), trained(curve=curve(11)), CURVE_DEPARTS),
        (trained(), trained(curve=curve(11, by=1e-7)), BOUNDS),
        (trained(), trained(curve=curve(loss=CURVE.scores["loss"] + 1e-8)), BOUNDS),
        (trained(), trained(curve=curve(loss=0.31)), ("regressed", ["evaluation"], [])),
        (trained(), trained(curve=curve(3, loss=0.31)), BOUNDS),
        (trained(curve=curve(mean_iou=0.5)), trained(), SAME),
        (make_record(), trained(), BOUNDS),
        (trained(), make_record(), BOUNDS),
        (trained(), trained(definition="d", curve=curve(9)), ("incomparable", ["definition"], [])),
        (trained(), make_record(status="error"), ("newly_failing", ["status"], [])),
        (make_record(status="error"), trained(), ("fixed", ["status"], [])),
    ],
)
def test_a_curve_is_equal_departs_like_rounding_or_is_of_another_computation(old, new, expected):
    assert said(judged(old, new)) == expected


def test_no_margin_allows_a_late_departure_or_another_evaluation():
    names = ("loss", "first_losses", "accuracy")
    bounds = dict.fromkeys(names, Bound(bound=9.0, reason="noise"))
    for other in (curve(11), curve(accuracy=0.901)):
        case = judged(trained(bounds=bounds), trained(bounds=bounds, curve=other))
        assert case.verdict == "regressed"


@pytest.mark.parametrize("late", [trained(), trained(curve=curve(11))])
def test_a_curve_of_another_kind_of_machine_or_of_several_judges_nothing(late):
    assert said(judge_case(LORA, observe(trained(), **THERE), observe(late))) == BOUNDS
    mixed = {"machine": msgspec.structs.replace(MACHINE, digest=MIXED_MACHINES)}
    assert said(judge_case(LORA, observe(trained(), **mixed), observe(late, **mixed))) == BOUNDS


def test_a_case_that_starts_from_other_inputs_is_judged_by_no_curve():
    def own(norm, **more):
        weight = TensorSummary(shape=[1], dtype="float32", mean=0.0, norm=norm)
        return trained(inputs=Inputs(weights={"w": weight}), **more)

    other = said(judged(own(1.0), own(2.0, curve=curve(9))))
    assert other == ("incomparable", ["inputs"], ["by bounds"])
    assert said(judged(own(1.0), own(1.0, curve=curve(9)))) == CURVE_DEPARTS


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (trained(), repeating(trained()), SAME),
        (trained(), repeating(trained(), by="another run"), SAME),
        (trained(), repeating(trained(curve=curve(3))), (*UNKNOWN, ["by bounds"])),
        (trained(), repeating(trained(curve=curve(9))), ("regressed", ["curve", "training"], [])),
        (make_record(), repeating(trained()), (*UNKNOWN, [])),
        (repeating(trained()), trained(), (*UNKNOWN, ["same curve"])),
        (repeating(trained()), repeating(trained()), SAME),
        (repeating(trained()), repeating(trained(curve=curve(3))), (*UNKNOWN, ["by bounds"])),
        (trained(definition="d"), repeating(trained()), ("incomparable", ["definition"], [])),
    ],
)
def test_a_case_that_repeats_what_the_other_side_does_not_know_is_incomparable(old, new, expected):
    assert said(judged(old, new)) == expected


def test_a_repeating_case_is_judged_with_the_scores_of_what_it_repeats():
    lower = trained(metrics={**VALUES, "accuracy": [0.5] * 3})
    budget = Budget(score=0.8)
    for old, verdict in ((trained(), "unchanged"), (lower, "over_budget")):
        new = msgspec.structs.replace(repeating(old), budget=budget)
        found = judged(old, new)
        assert found.verdict == verdict
        assert not any(one.kind == "not judged" for one in found.remarks)


def test_a_metric_of_one_s_own_is_of_all_seeds():
    iou = msgspec.structs.replace(make_metric("forward_flops", 3), direction="higher")
    old = trained(metrics={**VALUES, "mean_iou": iou})
    assert said(judged(old, repeating(old))) == SAME


def test_what_nothing_completes_comes_with_the_command_that_trains_all_seeds():
    records = map(trained, (LORA, FULL))
    comparison = compare(records, [repeating(trained(n, curve=curve(2))) for n in (LORA, FULL)])
    (finding,) = comparison.findings
    assert (finding.cause.strand, finding.cause.what) == ("coverage", "training")
    assert "--regress-full --regress-save run.json" in " ".join(verdict_text(comparison).split())
    assert comparison.exit_code == 3


@pytest.mark.parametrize(
    ("name", "shown"),
    [("0003_peft-0.21.2", "0003_peft-0.21.2"), ("/home/me/a run.json", "a run.json"), ("s/", "s")],
)
def test_a_record_names_no_folder_of_the_machine(name, shown):
    (known,) = known_curves({LORA: observe(trained(), run_name=name)})[LORA]
    assert (known.run_name, known.curve) == (shown, CURVE)
