"""Budgets: what is over them fails whatever the reference says; reports tell by how much."""

import json
from typing import Any

import pytest
from builders import FULL, LORA, compare, judged, make_device, make_record, observe_all

from peft_regress.gate import FAILING, Invocation, judge
from peft_regress.gate.budget_use import fits, step_runtime
from peft_regress.project.budgets import Bound, Budget
from peft_regress.report import case_text, encode_verdict, verdict_markdown, verdict_text

COSTS: dict[str, Any] = {
    "peak_bytes": 1000,
    "attainable_bytes": 900,
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


@pytest.mark.parametrize(
    ("fits", "over", "value"),
    [
        (Budget(peak=1000), Budget(peak=999), 1000),
        (Budget(attainable="900 B"), Budget(attainable=899), 900),
        (Budget(update=330), Budget(update=329), 330),
        (Budget(ship=50), Budget(ship=49), 50),
        (Budget(score=0.85), Budget(score=0.86), 0.85),
    ],
)
@pytest.mark.parametrize("has_reference", [False, True])
def test_a_case_over_budget_fails_with_or_without_a_reference(fits, over, value, *, has_reference):
    old = record() if has_reference else None
    assert judged(old, record(fits)).verdict == ("unchanged" if has_reference else "new")
    case = judged(old, record(over))
    assert case.verdict == "over_budget" in FAILING
    (reason,), (use,) = case.reasons, case.budgets
    assert (reason.name, reason.verdict) == (f"budget {use.name}", "over_budget")
    assert (reason.new, reason.limit) == (pytest.approx(value), use.limit)
    assert reason.old == (pytest.approx(value) if has_reference else None)


GENEROUS = {"peak_bytes": Bound(bound=9.0, reason="generous")}
SCORE = {**COSTS, "score": [-2.0, -4.0]}
BROKEN = record(Budget(peak=1), status="error", metrics={})


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        # Graver than regressed, and less than newly failing.
        (record(Budget(peak=1), metrics={**COSTS, "peak_bytes": 5000}), record(), "over_budget"),
        (BROKEN, record(), "newly_failing"),
        (BROKEN, BROKEN, "known_defect"),
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
    assert judged(old, new).verdict == expected


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


OF_FULL = Budget(of=FULL, ship_of=0.1)


@pytest.mark.parametrize(
    ("limits", "missing", "others", "text"),
    [
        (Budget(peak=1), "peak_bytes", [], "not measured"),
        (Budget(attainable=1), "attainable_bytes", [], "not measured"),
        (Budget(update=1), "optimizer_flops", [], "not measured"),
        (Budget(ship=1), "adapter_bytes", [], "not measured"),
        (Budget(score=1.0), "accuracy", [], "not measured"),
        (Budget(edge_train=1), "", [], "not measured"),
        (Budget(device="toaster"), "", [], "no such device class"),
        (Budget(of=FULL, peak_b32_of=0.5), "", [full()], "not measured"),
        (OF_FULL, "", [], f"{FULL} is neither in this run nor among its references"),
        (OF_FULL, "", [full(adapter_bytes=0)], f"not measured of {FULL}"),
        (OF_FULL, "", [make_record(FULL, status="error")], f"not measured of {FULL}"),
    ],
)
def test_a_budget_that_cannot_be_judged_is_told(limits, missing, others, text):
    metrics = {name: value for name, value in COSTS.items() if name != missing} | WEIGHTS
    comparison = compare([], [record(limits, metrics=metrics), *others], devices=(BOARD,))
    case = comparison.verdict_of(LORA)
    assert case.verdict == "new"
    assert {(one.kind, one.text) for one in case.remarks} == {("not judged", text)}
    assert {use.over_by for use in case.budgets} == {None}
    shown = " ".join(verdict_text(comparison).split())
    assert all(f"budget {use.name} is not judged: {text}" in shown for use in case.budgets)
    encoded = encode_verdict(comparison)["cases"][-1]
    assert {one["over"] for one in encoded["budgets"]} == {None}


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
        (Budget(of=FULL, peak_of=0.6), Budget(of=FULL, peak_of=0.7), True),
        (Budget(of=FULL, peak_of=0.7), Budget(of=FULL, peak_of=0.6), False),
    ],
)
def test_a_looser_budget_is_named_and_fails_a_strict_run(old, new, *, looser):
    sides = [[record(one, metrics={**COSTS, **WEIGHTS}), full()] for one in (old, new)]
    devices = (BOARD, make_device("large", 9000))
    for strict in (False, True):
        comparison = compare(*sides, devices=devices, invocation=Invocation(strict=strict))
        fails = looser and strict
        assert (bool(comparison.remarked), bool(comparison.red)) == (looser, fails)
        assert comparison.exit_code == int(fails)
        text = verdict_text(comparison)
        assert ("is looser than the baseline's" in text) == looser
        for shown in (text, verdict_markdown(comparison)):
            assert ("FAILED by strictness: 1 case with a looser bound or budget" in shown) == fails
            assert ("peft-regress accept" in shown) == fails
        in_case = case_text(comparison.verdict_of(LORA), comparison)
        assert ("fails by strictness: budget" in in_case) == fails


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
    case = judged(None, fits, devices=(BOARD,))
    assert case.verdict == "new"
    assert [(use.name, use.value, use.limit) for use in case.budgets] == [
        ("memory of board at batch 1 of 224x224", 1000, 2000),
        ("storage of board", 90, 100),
    ]
    heavy = record(limits, metrics={**COSTS, **WEIGHTS, "peak_param_bytes": 91})
    (reason,) = judged(None, heavy, devices=(BOARD,)).reasons
    assert (reason.name, reason.new, reason.limit) == ("budget storage of board", 101, 100)


@pytest.mark.parametrize(
    ("more", "trained", "expected"),
    [
        ({}, {"trainable_params": 9}, "eager"),
        ({"numerics": "head"}, {"trainable_params": 1}, "eager"),
        ({}, {"trainable_params": 9, "projection_flops": 5}, "galore"),
        ({}, {"trainable_params": 1}, "peft"),
    ],
)
def test_what_takes_the_step_of_an_own_case_is_told_by_what_trains_not_by_its_name(
    more, trained, expected
):
    for name in ("own/full/net", "own/lora-r4/net"):
        one = make_record(name, {**COSTS, "total_params": 9, **trained}, batch=8, **more)
        assert step_runtime(one) == expected


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
    text = case_text(comparison.verdict_of(LORA), comparison)
    assert f"budget peak_of {FULL}: 50.0 % -> 100.0 %  +50.0 points (budget 50.0 %" in text
    assert "also changed" not in text


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


SIZES = {"peak_bytes": 1000, "peak_param_bytes": 80, "peak_buffer_bytes": 10}
LOOSE = {name: Bound(bound=9.0, reason="any") for name in SIZES}


NO_BUFFERS = {name: value for name, value in SIZES.items() if name != "peak_buffer_bytes"}


@pytest.mark.parametrize(
    ("metrics", "memory", "storage", "fitting"),
    [
        (SIZES, 1000, 90, True),
        (SIZES, 1000, None, True),
        (SIZES, 999, 90, False),
        (SIZES, 1000, 89, False),
        ({"loss": [1.0]}, 1, None, None),
        (NO_BUFFERS, 1000, 90, None),
        (NO_BUFFERS, 1000, None, True),
        (NO_BUFFERS, 999, 90, False),
    ],
)
def test_a_case_fits_by_its_peak_and_by_its_weights_as_far_as_they_are_known(
    metrics, memory, storage, fitting
):
    assert fits(make_record(LORA, metrics), make_device("board", memory, storage)) is fitting


@pytest.mark.parametrize(
    ("old", "new", "board", "numbers"),
    [
        # Whatever the bounds allow.
        ({}, {"peak_bytes": 1101}, (1100, 100), (1000, 1101, 1100)),
        ({}, {"peak_param_bytes": 91}, (1100, 100), (90, 101, 100)),
        # What never was, or is gained.
        ({}, {"peak_bytes": 2000}, (500,), None),
        ({"peak_bytes": 2000}, {}, (1100,), None),
        ({}, {"peak_bytes": 2000}, (5000,), None),
    ],
)
def test_a_fit_that_is_lost_is_a_regression_and_no_other_is_a_reason(old, new, board, numbers):
    sides = [make_record(LORA, SIZES | side, bounds=LOOSE) for side in (old, new)]
    case = judged(*sides, devices=(make_device("board", *board),))
    assert case.verdict == ("unchanged" if numbers is None else "regressed")
    expected = [] if numbers is None else [("fits board", *numbers)]
    assert [(one.name, one.old, one.new, one.limit) for one in case.reasons] == expected
    assert judged(*sides).verdict == "unchanged"


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
