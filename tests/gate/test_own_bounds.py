"""Bounds and numbers of a case's author: what they allow, and what they never hide."""

from dataclasses import replace

import pytest
from builders import LORA, compare, find_origins, make_record, observe

from peft_regress.gate.judge import judge_case
from peft_regress.invariants import KNOWN
from peft_regress.metrics import Metric
from peft_regress.project.budgets import Bound
from peft_regress.report import case_text


def bound(size, reason="seed noise 0.6 %"):
    return Bound(bound=size, reason=reason)


def verdict_on(old, new, *, bounds=None, before=None):
    """Judge a case with the author's bounds on the newer side, and `before` on the older one."""
    sides = (old, bounds if before is None else before), (new, bounds)
    reference, observed = (
        observe(make_record(LORA, metrics, **({} if own is None else {"bounds": own})), known=KNOWN)
        for metrics, own in sides
    )
    return judge_case(LORA, reference, observed)


def scores(*values):
    return {"score": list(values)}


def test_a_score_without_a_bound_is_shown_and_not_judged_unless_it_is_gone():
    case = verdict_on(scores(-3.0, -2.0), scores(-90.0, -80.0))
    assert (case.verdict, case.reasons) == ("unchanged", ())
    (remark,) = case.remarks
    assert (remark.kind, remark.subject, remark.new) == ("not judged", "score", -85.0)
    new = {"loss": [1.0]}
    for bounds in (None, {"score": bound(9.0)}):
        assert verdict_on({**scores(0.5), **new}, new, bounds=bounds).verdict == "regressed"


@pytest.mark.parametrize(
    ("old", "new", "size", "verdict"),
    [
        ([0.5, 0.5], [0.48, 0.48], 0.05, "unchanged"),
        ([0.5, 0.5], [0.44, 0.44], 0.05, "regressed"),
        ([0.5, 0.5], [0.56, 0.56], 0.05, "improved"),
        ([-1.0, -3.0], [-1.5, -3.5], 0.4, "regressed"),
        # Differences of paired seeds cancel.
        ([1.0, 2.0], [2.0, 1.0], 0.01, "unchanged"),
    ],
)
def test_a_score_with_a_bound_is_judged_by_the_difference_of_the_means(old, new, size, verdict):
    case = verdict_on(scores(*old), scores(*new), bounds={"score": bound(size)})
    assert case.verdict == verdict
    for reason in case.reasons:
        assert reason.relative_change == pytest.approx((sum(new) - sum(old)) / 2)
        assert reason.bound == size


@pytest.mark.parametrize(
    ("metric", "old", "new", "size", "tight"),
    [
        ("forward_flops", 1000, 1019, 0.02, 0.01),
        ("peak_bytes", 1000, 1019, 0.02, 0.01),
        ("accuracy", [0.90], [0.81], 0.1, 0.05),
        ("loss", [1.0], [1.19], 0.2, 0.1),
        ("first_losses", [[1.0, 1.0]], [[1.019, 1.0]], 0.02, 0.01),
        # A bound of zero reports every change.
        ("first_losses", [[1.0, 2.0]], [[1.0, 2.0 + 1e-12]], 0.02, 0.0),
    ],
)
def test_an_own_bound_replaces_the_usual_one_and_is_told(metric, old, new, size, tight):
    before, after = {metric: old}, {metric: new}
    case = verdict_on(before, after, bounds={metric: bound(size)})
    assert case.verdict == "unchanged"
    told = [(one.subject, one.text) for one in case.remarks if one.kind == "within own bound"]
    is_told = verdict_on(before, after).verdict == "regressed"
    assert told == [(metric, "seed noise 0.6 %")] * is_told
    (reason,) = verdict_on(before, after, bounds={metric: bound(tight)}).reasons
    assert (reason.verdict, reason.bound) == ("regressed", tight)
    assert reason.bound_reason == "seed noise 0.6 %"


def test_the_reason_for_a_bound_stands_beside_the_verdict_and_it_touches_no_other_metric():
    bounds = {"peak_bytes": bound(0.02)}
    old, new = (
        make_record(LORA, dict.fromkeys(("forward_flops", "peak_bytes"), value), bounds=bounds)
        for value in (1000, 1100)
    )
    comparison = compare([old], [new])
    bound_of = {one.name: one.bound for one in comparison.cases[0].reasons}
    assert bound_of == {"forward_flops": 0, "peak_bytes": 0.02}
    text = case_text(comparison.cases[0], comparison)
    assert "+10 % (bound 2 % (seed noise 0.6 %))" in text


@pytest.mark.parametrize(
    ("before", "after", "looser"),
    [
        ({}, {"peak_bytes": bound(0.02)}, True),
        ({}, {"peak_bytes": bound(0.0005)}, False),
        ({"peak_bytes": bound(0.02)}, {"peak_bytes": bound(0.03)}, True),
        ({"peak_bytes": bound(0.02)}, {"peak_bytes": bound(0.02)}, False),
        ({"peak_bytes": bound(0.02)}, {"peak_bytes": bound(0.01)}, False),
        ({"peak_bytes": bound(0.0005)}, {}, True),
        ({"peak_bytes": bound(0.02)}, {}, False),
    ],
)
def test_a_bound_looser_than_the_references_is_named_and_fails_a_strict_run(
    before, after, *, looser
):
    metrics = {"peak_bytes": 1000}
    case = verdict_on(metrics, metrics, bounds=after, before=before)
    assert case.verdict == "unchanged"
    assert [remark.kind for remark in case.remarks] == ["looser bound"] * looser
    assert [remark.fails_strictly for remark in case.remarks] == [True] * looser


@pytest.mark.parametrize(
    ("metric", "values", "bounds", "verdict"),
    [
        ("score", (1.0, 0.94, 0.88), {"score": bound(0.1)}, "regressed"),
        ("score", (1.0, 0.97, 0.94), {"score": bound(0.1)}, "unchanged"),
        ("score", (1.0, 0.94, 0.1), {}, "unchanged"),
        ("forward_flops", (1000, 1060, 1120), {"forward_flops": bound(0.1)}, "regressed"),
    ],
)
def test_what_has_a_bound_of_its_own_can_drift(metric, values, bounds, verdict):
    """The verdict is that on the last value, with an entry for each one before."""
    records = [
        make_record(LORA, {metric: [value] if metric == "score" else value}, bounds=bounds)
        for value in values
    ]
    history = [(f"{number:04d}", record) for number, record in enumerate(records[:-1])]
    old = replace(observe(records[-2]), drift_origins=find_origins(history))
    assert judge_case(LORA, old, observe(records[-1])).verdict == verdict


def test_what_a_tighter_bound_shows_is_accepted_once():
    """The metric itself is that of the entry before."""
    rows = ((100, 0.5), (120, 0.5), (120, 0.01))
    history = [
        (str(at), make_record(LORA, {"peak_bytes": value}, bounds={"peak_bytes": bound(size)}))
        for at, (value, size) in enumerate(rows)
    ]
    assert find_origins(history[:-1])["peak_bytes"].entry == "0"
    assert "peak_bytes" not in find_origins(history)


def own(value, kind, **more):
    return Metric(value=value, **{"unit": "count", "direction": "lower", "kind": kind} | more)


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (own(3, "exact"), own(4, "exact"), "regressed"),
        (own(3, "bytes"), own(4, "bytes"), "regressed"),
        (own(3, "info"), own(4, "info"), "unchanged"),
        (own(3, "score"), own(4, "score"), "unchanged"),
        (own(3, "exact", direction="none"), own(4, "exact", direction="none"), "unchanged"),
        (own(3, "exact"), own(3, "info"), "incomparable"),
    ],
)
def test_an_own_metric_is_judged_by_its_kind(old, new, verdict):
    assert verdict_on({"false_alarms": old}, {"false_alarms": new}).verdict == verdict
