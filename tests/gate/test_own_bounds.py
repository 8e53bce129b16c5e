"""Bounds and numbers of a case's author: what they allow, and what they never hide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from builders import LORA, make_record, observe

from peft_regress.gate import judge
from peft_regress.gate.changes import find_origins
from peft_regress.gate.judge import judge_case
from peft_regress.metrics import KNOWN, Metric
from peft_regress.report import case_text
from peft_regress.runs.schema import OwnBound

if TYPE_CHECKING:
    from peft_regress.gate.verdicts import CaseVerdict


def bound(size: float, reason: str = "seed noise 0.6 %") -> OwnBound:
    return OwnBound(bound=size, reason=reason)


def verdict_on(
    old: dict[str, Any],
    new: dict[str, Any],
    *,
    bounds: dict[str, OwnBound] | None = None,
    before: dict[str, OwnBound] | None = None,
) -> CaseVerdict:
    """Judge a case with the author's bounds on the newer side, and `before` on the older one."""
    sides = (old, bounds if before is None else before), (new, bounds)
    reference, observed = (
        observe(make_record(LORA, metrics, **({} if own is None else {"bounds": own})), known=KNOWN)
        for metrics, own in sides
    )
    return judge_case(LORA, reference, observed)


def scores(*values: float) -> dict[str, Any]:
    return {"score": list(values)}


# --- score ----------------------------------------------------------------------------------


def test_a_score_without_a_bound_is_shown_and_not_judged() -> None:
    case = verdict_on(scores(-3.0, -2.0), scores(-90.0, -80.0))
    assert (case.verdict, case.reasons) == ("unchanged", ())
    (remark,) = case.remarks
    assert (remark.kind, remark.subject, remark.new) == ("not judged", "score", -85.0)


@pytest.mark.parametrize(
    ("new", "verdict"), [(0.48, "unchanged"), (0.44, "regressed"), (0.56, "improved")]
)
def test_a_score_with_a_bound_is_judged_by_the_difference_of_the_means(
    new: float, verdict: str
) -> None:
    found = verdict_on(scores(0.5, 0.5), scores(new, new), bounds={"score": bound(0.05)})
    assert found.verdict == verdict


def test_a_score_below_zero_is_judged_like_any_other() -> None:
    case = verdict_on(scores(-1.0, -3.0), scores(-1.5, -3.5), bounds={"score": bound(0.4)})
    (reason,) = case.reasons
    assert (reason.verdict, reason.relative_change, reason.bound) == ("regressed", -0.5, 0.4)


def test_differences_of_paired_seeds_cancel_in_a_score() -> None:
    bounds = {"score": bound(0.01)}
    assert verdict_on(scores(1.0, 2.0), scores(2.0, 1.0), bounds=bounds).verdict == "unchanged"


def test_a_score_that_is_gone_is_a_regression_with_or_without_a_bound() -> None:
    for bounds in (None, {"score": bound(9.0)}):
        old = {**scores(0.5), "loss": [1.0]}
        assert verdict_on(old, {"loss": [1.0]}, bounds=bounds).verdict == "regressed"


# --- bounds ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "old", "new", "size"),
    [
        ("forward_flops", 1000, 1019, 0.02),
        ("peak_bytes", 1000, 1019, 0.02),
        ("accuracy", [0.90], [0.81], 0.1),
        ("loss", [1.0], [1.19], 0.2),
        ("first_losses", [[1.0, 1.0]], [[1.019, 1.0]], 0.02),
    ],
)
def test_an_own_bound_replaces_the_usual_one(metric: str, old: Any, new: Any, size: float) -> None:
    before, after = {metric: old}, {metric: new}
    assert verdict_on(before, after).verdict == "regressed"
    assert verdict_on(before, after, bounds={metric: bound(size)}).verdict == "unchanged"
    tight = {metric: bound(size / 2)}
    (reason,) = verdict_on(before, after, bounds=tight).reasons
    assert (reason.verdict, reason.bound, reason.bound_reason) == (
        "regressed",
        size / 2,
        "seed noise 0.6 %",
    )


def test_a_bound_of_zero_on_a_fingerprint_reports_every_change() -> None:
    bounds = {"first_losses": bound(0.0)}
    old, new = {"first_losses": [[1.0, 2.0]]}, {"first_losses": [[1.0, 2.0 + 1e-12]]}
    assert verdict_on(old, new, bounds=bounds).verdict == "regressed"
    assert verdict_on(old, old, bounds=bounds).verdict == "unchanged"


def test_what_only_an_own_bound_allows_is_told() -> None:
    case = verdict_on(
        {"peak_bytes": 1000}, {"peak_bytes": 1019}, bounds={"peak_bytes": bound(0.02)}
    )
    (remark,) = case.remarks
    assert (remark.kind, remark.subject, remark.old, remark.new, remark.text) == (
        "within own bound",
        "peak_bytes",
        1000,
        1019,
        "seed noise 0.6 %",
    )


def test_a_bound_of_a_metric_does_not_touch_another() -> None:
    bounds = {"peak_bytes": bound(1.0)}
    old, new = {"forward_flops": 1, "peak_bytes": 1}, {"forward_flops": 2, "peak_bytes": 2}
    (reason,) = verdict_on(old, new, bounds=bounds).reasons
    assert reason.metric == "forward_flops"


def test_the_reason_for_a_bound_stands_beside_the_verdict() -> None:
    records = [
        make_record(LORA, {"peak_bytes": value}, bounds={"peak_bytes": bound(0.02)})
        for value in (1000, 1100)
    ]
    old, new = map(observe, records)
    comparison = judge({LORA: old}, {LORA: new})
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
    before: dict[str, OwnBound], after: dict[str, OwnBound], *, looser: bool
) -> None:
    metrics = {"peak_bytes": 1000}
    case = verdict_on(metrics, metrics, bounds=after, before=before)
    assert case.verdict == "unchanged"
    assert [remark.kind for remark in case.remarks] == ["looser bound"] * looser
    assert [remark.fails_strictly for remark in case.remarks] == [True] * looser


def test_a_score_that_lost_its_bound_is_named() -> None:
    case = verdict_on(scores(1.0), scores(1.0), bounds={}, before={"score": bound(0.1)})
    found = {remark.kind: remark for remark in case.remarks}
    assert (found["looser bound"].old, found["looser bound"].new) == (0.1, None)
    assert found.keys() == {"looser bound", "not judged"}


# --- drift ----------------------------------------------------------------------------------


def drifted(*values: float, bounds: dict[str, OwnBound], metric: str = "score") -> str:
    """Return the verdict on the last value, with an entry for each one before."""
    records = [
        make_record(LORA, {metric: [value] if metric == "score" else value}, bounds=bounds)
        for value in values
    ]
    history = [(f"{number:04d}", record) for number, record in enumerate(records[:-1])]
    reference = observe(records[-2])
    reference = type(reference)(
        record=reference.record,
        environment=reference.environment,
        machine=reference.machine,
        run_name="0009",
        drift_origins=find_origins(history),
    )
    return judge_case(LORA, reference, observe(records[-1])).verdict


def test_a_score_within_its_bound_in_each_step_drifts() -> None:
    assert drifted(1.0, 0.94, 0.88, bounds={"score": bound(0.1)}) == "regressed"
    assert drifted(1.0, 0.97, 0.94, bounds={"score": bound(0.1)}) == "unchanged"


def test_a_score_that_nothing_judges_does_not_drift() -> None:
    assert drifted(1.0, 0.94, 0.1, bounds={}) == "unchanged"


def test_an_exact_metric_with_a_bound_of_its_own_can_drift() -> None:
    bounds = {"forward_flops": bound(0.1)}
    assert drifted(1000, 1060, 1120, bounds=bounds, metric="forward_flops") == "regressed"


# --- own metrics ----------------------------------------------------------------------------


def own(value: float, kind: Any, **more: Any) -> Metric:
    return Metric(value=value, **{"unit": "count", "direction": "lower", "kind": kind} | more)


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("exact", "regressed"), ("bytes", "regressed"), ("info", "unchanged"), ("score", "unchanged")],
)
def test_an_own_metric_is_judged_by_its_kind(kind: str, verdict: str) -> None:
    old, new = ({"false_alarms": own(value, kind)} for value in (3, 4))
    assert verdict_on(old, new).verdict == verdict


def test_an_own_metric_without_a_direction_is_not_judged() -> None:
    old, new = ({"cells": own(value, "exact", direction="none")} for value in (3, 4))
    assert verdict_on(old, new).verdict == "unchanged"


def test_an_own_metric_that_changed_kind_cannot_be_compared() -> None:
    old, new = {"cells": own(3, "exact")}, {"cells": own(3, "info")}
    assert verdict_on(old, new).verdict == "incomparable"
