"""Budgets: what is over them fails whatever the reference says; reports tell by how much."""

import json
from typing import Any

import pytest
from builders import FULL, LORA, compare, make_device, make_record, observe, observe_all

from peft_regress.gate import FAILING, Invocation, judge, judge_case
from peft_regress.gate.budget_use import fits, step_runtime
from peft_regress.project.budgets import Bound, Budget
from peft_regress.report import case_text, encode_verdict, verdict_markdown, verdict_text

COSTS: dict[str, Any] = {
    "peak_bytes": 1000,
    "forward_flops": 100,
    "backward_flops": 200,
    "optimizer_flops": 30,
    "adapter_bytes": 50,
    "accuracy": [0.9, 0.8],
}


BOARD = make_device("board", 2000, 100)
WEIGHTS = {"peak_param_bytes": 80, "peak_buffer_bytes": 10}


def record(limits=None, **more):
    metrics = more.pop("metrics", COSTS)
    return make_record(LORA, metrics, **({} if limits is None else {"budget": limits}), **more)


def verdict(new, old=None, **how):
    return judge_case(LORA, None if old is None else observe(old), observe(new), **how)


@pytest.mark.parametrize(
    ("fits", "over", "value"),
    [
        (Budget(peak=1000), Budget(peak=999), 1000),
        (Budget(update=330), Budget(update=329), 330),
        (Budget(ship=50), Budget(ship=49), 50),
        (Budget(score=0.85), Budget(score=0.86), 0.85),
    ],
)
@pytest.mark.parametrize("has_reference", [False, True])
def test_a_case_over_budget_fails_with_or_without_a_reference(fits, over, value, *, has_reference):
    old = record() if has_reference else None
    assert verdict(record(fits), old).verdict == ("unchanged" if has_reference else "new")
    case = verdict(record(over), old)
    assert case.verdict == "over_budget" in FAILING
    (reason,) = case.reasons
    assert reason.name == f"budget {case.budgets[0].name}"
    assert (reason.verdict, reason.new, reason.limit) == (
        "over_budget",
        pytest.approx(value),
        case.budgets[0].limit,
    )
    assert reason.old == (pytest.approx(value) if has_reference else None)


GENEROUS = {"peak_bytes": Bound(bound=9.0, reason="generous")}
SCORE = {**COSTS, "score": [-2.0, -4.0]}


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        # Graver than regressed, and less than newly failing.
        (record(Budget(peak=1), metrics={**COSTS, "peak_bytes": 5000}), record(), "over_budget"),
        (record(Budget(peak=1), status="error", metrics={}), record(), "newly_failing"),
        # No reference, bound or definition excuses it.
        (record(Budget(peak=999)), record(Budget(peak=999)), "over_budget"),
        (record(Budget(peak=999), bounds=GENEROUS), record(bounds=GENEROUS), "over_budget"),
        (record(Budget(peak=999), definition="sha256:other"), record(), "over_budget"),
        # Nor that it became better.
        (record(Budget(peak=700), metrics={**COSTS, "peak_bytes": 800}), record(), "over_budget"),
        # A score of one's own stands for the accuracy.
        (record(Budget(score=-3.0), metrics=SCORE), None, "new"),
        (record(Budget(score=-2.9), metrics=SCORE), None, "over_budget"),
    ],
)
def test_the_verdict_on_a_case_with_a_budget(new, old, expected):
    assert verdict(new, old).verdict == expected


def test_a_budget_of_a_case_that_fails_is_not_judged():
    broken = record(Budget(peak=1), status="error", metrics={})
    case = verdict(broken, broken)
    assert case.verdict == "known_defect"
    assert [remark.kind for remark in case.remarks] == ["not judged"]


@pytest.mark.parametrize(
    ("limits", "missing"),
    [
        (Budget(peak=1), "peak_bytes"),
        (Budget(update=1), "optimizer_flops"),
        (Budget(ship=1), "adapter_bytes"),
        (Budget(score=1.0), "accuracy"),
        (Budget(edge_train=1), ""),
    ],
)
def test_what_was_not_measured_is_not_judged_and_told(limits, missing):
    metrics = {name: value for name, value in COSTS.items() if name != missing}
    case = verdict(record(limits, metrics=metrics))
    assert case.verdict == "new"
    (remark,) = case.remarks
    assert (remark.kind, remark.text) == ("not judged", "not measured")
    assert [use.over_by for use in case.budgets] == [None]


@pytest.mark.parametrize(
    ("old", "new", "looser"),
    [
        (Budget(peak=2000), Budget(peak=3000), True),
        (Budget(peak=2000), Budget(), True),
        (Budget(peak=3000), Budget(peak=2000), False),
        (None, Budget(peak=2000), False),
        (Budget(score=0.5), Budget(score=0.4), True),
        (Budget(score=0.4), Budget(score=0.5), False),
        (Budget(device="board"), Budget(), True),
        (Budget(device="board"), Budget(device="large"), True),
        (Budget(device="large"), Budget(device="board"), False),
    ],
)
def test_a_looser_budget_is_named_and_fails_a_strict_run(old, new, *, looser):
    sides = [record(limits, metrics={**COSTS, **WEIGHTS}) for limits in (old, new)]
    devices = (BOARD, make_device("large", 9000))
    for strict in (False, True):
        comparison = compare(
            [sides[0]], [sides[1]], devices=devices, invocation=Invocation(strict=strict)
        )
        assert bool(comparison.remarked) == looser
        assert comparison.exit_code == (1 if looser and strict else 0)
        assert bool(comparison.red) == (looser and strict)
        text = verdict_text(comparison)
        assert ("is looser than the baseline's" in text) == looser
        assert ("FAILED by strictness: 1 case with a looser bound or budget" in text) == (
            looser and strict
        )
        if looser and strict:
            assert "fails by strictness: budget" in case_text(comparison.cases[0], comparison)


@pytest.mark.parametrize("is_own", [True, False])
def test_a_built_in_case_for_which_nothing_states_a_budget_has_that_of_its_reference(is_own):
    """A budget travels with its baseline; who removes that of a case of one's own, loosens it."""
    own = {"profiled_on": "fake tensors"} if is_own else {}
    before = record(Budget(peak=2000), **own)
    after = record(metrics={**COSTS, "peak_bytes": 2001}, **own)
    comparison = compare([before], [after])
    (case,) = comparison.cases
    assert [use.limit for use in case.budgets] == ([] if is_own else [2000])
    assert case.verdict == ("regressed" if is_own else "over_budget")
    assert bool(comparison.remarked) == is_own


def test_a_budget_can_name_a_device_of_which_memory_and_storage_count():
    limits = Budget(device="board")
    fits = record(limits, metrics={**COSTS, **WEIGHTS})
    case = verdict(fits, devices=(BOARD,))
    assert case.verdict == "new"
    assert [(use.name, use.value, use.limit) for use in case.budgets] == [
        ("memory of board at batch 1 of 224x224", 1000, 2000),
        ("storage of board", 90, 100),
    ]
    heavy = record(limits, metrics={**COSTS, **WEIGHTS, "peak_param_bytes": 91})
    (reason,) = verdict(heavy, devices=(BOARD,)).reasons
    assert (reason.name, reason.new, reason.limit) == ("budget storage of board", 101, 100)


@pytest.mark.parametrize(
    ("more", "trains", "expected"),
    [
        ({}, {"trainable_params": 9, "total_params": 9}, "eager"),
        ({"numerics": "head"}, {"trainable_params": 1, "total_params": 9}, "eager"),
        ({}, {"trainable_params": 9, "total_params": 9, "projection_flops": 5}, "galore"),
        ({}, {"trainable_params": 1, "total_params": 9}, "peft"),
    ],
)
@pytest.mark.parametrize("name", ["own/full/net", "own/lora-r4/net"])
def test_what_takes_the_step_of_an_own_case_is_told_by_what_trains_not_by_its_name(
    name, more, trains, expected
):
    assert step_runtime(make_record(name, {**COSTS, **trains}, batch=8, **more)) == expected


def test_a_device_that_nobody_knows_is_not_judged_and_told():
    case = verdict(record(Budget(device="toaster"), metrics={**COSTS, **WEIGHTS}), devices=(BOARD,))
    assert case.verdict == "new"
    assert {remark.text for remark in case.remarks} == {"no such device class"}


FULL_COSTS = {
    "peak_bytes": 2000,
    "peak_bytes_b32": 4000,
    "forward_flops": 300,
    "backward_flops": 300,
    "optimizer_flops": 60,
    "adapter_bytes": 500,
}


def full(**more):
    return make_record(FULL, {**FULL_COSTS, **more})


@pytest.mark.parametrize(
    ("part", "fits", "over", "value"),
    [
        ("peak_of", 0.5, 0.49, 0.5),
        ("peak_b32_of", 0.75, 0.7, 0.75),
        ("update_of", 0.5, 0.499, 0.5),
        ("ship_of", 0.1, 0.0999, 0.1),
    ],
)
def test_a_share_is_of_what_the_same_run_measured_of_the_other_case(part, fits, over, value):
    metrics = {**COSTS, "peak_bytes_b32": 3000}
    for share, expected in ((fits, "new"), (over, "over_budget")):
        new = record(Budget(of=FULL, **{part: share}), metrics=metrics)
        case = compare([], [new, full()]).verdict_of(LORA)
        assert case.verdict == expected
        (use,) = case.budgets
        assert (use.name, use.value, use.limit) == (
            f"{part} {FULL}", pytest.approx(value), share,
        )  # fmt: skip


def test_a_share_is_of_the_reference_if_the_other_case_was_not_selected():
    new = record(Budget(of=FULL, peak_of=0.5), metrics={**COSTS, "peak_bytes": 1001})
    stored = [full(), record()]
    assert compare(stored, [new]).verdict_of(LORA).verdict == "over_budget"
    assert compare(stored, [new, full(peak_bytes=2002)]).verdict_of(LORA).verdict == "unchanged"
    # Records of the run that are not judged give the other case too.
    other = full(peak_bytes=2002)
    later = judge(observe_all(stored), observe_all([new]), expected=[LORA], beside={FULL: other})
    chosen = compare(stored, [new, other], invocation=Invocation(cases=LORA))
    for comparison in (later, chosen):
        assert [case.verdict for case in comparison.cases] == ["unchanged"]
        assert [*comparison.observed] == [LORA]


def test_the_saving_may_fall_although_the_case_itself_costs_as_much_as_ever():
    """What full fine-tuning no longer needs, the adapter saves no longer."""
    new = record(Budget(of=FULL, peak_of=0.5))
    comparison = compare([full(), record()], [full(peak_bytes=1000), new])
    case = comparison.verdict_of(LORA)
    assert case.verdict == "over_budget"
    (reason,) = case.reasons
    assert reason.name == f"budget peak_of {FULL}"
    assert (reason.old, reason.new, reason.relative_change) == (0.5, 1.0, 0.5)
    assert f"budget peak_of {FULL}: 50.0 % -> 100.0 %  +50.0 points (budget 50.0 %" in (
        case_text(case, comparison)
    )
    assert "also changed" not in case_text(case, comparison)


@pytest.mark.parametrize(
    ("others", "text"),
    [
        ([], f"{FULL} is neither in this run nor among its references"),
        ([make_record(FULL, {"adapter_bytes": 0})], f"not measured of {FULL}"),
        ([make_record(FULL, status="error", metrics={})], f"not measured of {FULL}"),
    ],
)
def test_without_the_other_cases_cost_a_share_is_not_judged_and_the_report_says_so(others, text):
    new = record(Budget(of=FULL, ship_of=0.1, peak_of=0.1))
    comparison = compare([], [new, *others])
    case = comparison.verdict_of(LORA)
    assert case.verdict == "new"
    assert {(one.kind, one.subject, one.text) for one in case.remarks} == {
        ("not judged", f"budget {part} {FULL}", text) for part in ("ship_of", "peak_of")
    }
    sentence = f"budget peak_of {FULL} is not judged: {text}"
    assert sentence in " ".join(verdict_text(comparison).split())
    assert [one["over"] for one in encode_verdict(comparison)["cases"][-1]["budgets"]] == [
        None, None,
    ]  # fmt: skip


def test_a_share_of_what_the_case_itself_lacks_is_not_measured():
    case = compare([], [record(Budget(of=FULL, peak_b32_of=0.5)), full()]).verdict_of(LORA)
    assert [remark.text for remark in case.remarks] == ["not measured"]


@pytest.mark.parametrize(("old", "new", "looser"), [(0.6, 0.7, 1), (0.7, 0.6, 0), (None, 0.6, 0)])
def test_a_larger_share_is_a_looser_budget_and_a_first_one_is_not(old, new, looser):
    before = record(None if old is None else Budget(of=FULL, peak_of=old))
    comparison = compare([before, full()], [record(Budget(of=FULL, peak_of=new)), full()])
    assert len(comparison.remarked) == looser
    assert comparison.exit_code == 0


def test_of_many_budgets_the_markdown_shows_those_of_which_most_is_used():
    records = [
        make_record(f"shift/lora-r{rank}/resnet18", COSTS, budget=Budget(peak=1000 + rank))
        for rank in range(1, 50)
    ]
    text = verdict_markdown(compare([], records)).replace("\\", "")
    assert "`shift/lora-r40/resnet18` | peak" in text
    assert "`shift/lora-r41/resnet18` | peak" not in text
    assert "and 9 more, of which less is used" in text


FINE = "unseen/lora-r4/resnet18"


@pytest.mark.parametrize("has_reference", [False, True], ids=["new", "with a reference"])
def test_every_report_names_budget_value_and_margin(has_reference, snapshot):
    """Also of shares; without `verbose` only those of cases that are over."""
    over = record(Budget(peak=800, update=660, score=0.5, of=FULL, peak_of=0.4, ship_of=0.2))
    fine = make_record(FINE, COSTS, budget=Budget(peak=2000))
    comparison = compare([record()] if has_reference else [], [over, fine, full()])
    assert comparison.exit_code == 1
    brief, verbose = (verdict_text(comparison, verbose=verbose) for verbose in (False, True))
    assert brief == snapshot
    assert [line for line in verbose.splitlines() if line not in brief] == snapshot
    assert verdict_markdown(comparison) == snapshot
    assert case_text(comparison.verdict_of(LORA), comparison) == snapshot
    encoded = json.loads(json.dumps(encode_verdict(comparison), allow_nan=False))
    assert {case["id"]: case.get("budgets") for case in encoded["cases"]} == snapshot


def test_a_run_without_budgets_says_nothing_of_them():
    comparison = compare([record()], [record()])
    assert "budget" not in verdict_text(comparison, verbose=True) + verdict_markdown(comparison)
    assert "budgets" not in encode_verdict(comparison)["cases"][0]


SIZES = {"peak_bytes": 1000, "peak_param_bytes": 80, "peak_buffer_bytes": 10}
LOOSE = {name: Bound(bound=9.0, reason="any") for name in SIZES}


def judged(old, new, *devices):
    sides = [observe(make_record(LORA, metrics, bounds=LOOSE)) for metrics in (old, new)]
    return judge_case(LORA, *sides, devices=devices)


@pytest.mark.parametrize(
    ("memory", "storage", "fitting"),
    [(1000, 90, True), (1000, None, True), (999, 90, False), (1000, 89, False)],
)
def test_a_case_fits_by_its_peak_and_by_its_weights(memory, storage, *, fitting):
    assert fits(make_record(LORA, SIZES), make_device("board", memory, storage)) is fitting


def test_whether_a_case_fits_is_unknown_if_it_was_not_measured():
    assert fits(make_record(LORA, {"loss": [1.0]}), make_device("board", 1)) is None
    part = {name: value for name, value in SIZES.items() if name != "peak_buffer_bytes"}
    assert fits(make_record(LORA, part), make_device("board", 1000, 90)) is None
    assert fits(make_record(LORA, part), make_device("board", 1000)) is True
    assert fits(make_record(LORA, part), make_device("board", 999, 90)) is False


def test_a_fit_that_is_lost_is_a_regression_whatever_the_bounds_allow():
    board = make_device("board", 1100, 100)
    case = judged(SIZES, {**SIZES, "peak_bytes": 1101}, board)
    (reason,) = case.reasons
    assert (case.verdict, reason.name) == ("regressed", "fits board")
    assert (reason.old, reason.new, reason.limit) == (1000, 1101, 1100)
    (reason,) = judged(SIZES, {**SIZES, "peak_param_bytes": 91}, board).reasons
    assert (reason.old, reason.new, reason.limit) == (90, 101, 100)


def test_a_fit_that_never_was_or_is_gained_is_no_reason():
    more = {**SIZES, "peak_bytes": 2000}
    assert judged(SIZES, more, make_device("small", 500)).verdict == "unchanged"
    assert judged(more, SIZES, make_device("board", 1100)).verdict == "unchanged"
    assert judged(SIZES, more, make_device("large", 5000)).verdict == "unchanged"
    assert judged(SIZES, more).verdict == "unchanged"


def test_the_fits_that_many_cases_lose_are_one_finding_with_device_value_and_limit():
    ids = [LORA, "unseen/lora-r4/resnet18"]
    old, new = (
        [make_record(name, {**SIZES, "peak_bytes": peak}, bounds=LOOSE) for name in ids]
        for peak in (1000, 1200)
    )
    comparison = compare(old, new, devices=(make_device("board", 1100),))
    (finding,) = comparison.findings
    assert (finding.cause.strand, finding.cause.what, len(finding.cases)) == ("fit", "board", 2)
    text = verdict_text(comparison)
    assert "fits board: 1.172 KiB (limit 1.074 KiB, missed by 100 B, 9.09 %)" in text
