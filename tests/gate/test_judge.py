"""The gate: worse never passes if better fails, and a case that was not compared never passes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import msgspec
import pytest
from builders import (
    ENVIRONMENT,
    FULL,
    GALORE,
    LORA,
    MACHINE,
    OTHER_MACHINE,
    VALUES,
    make_metric,
    make_record,
    make_run,
    observe,
    observe_all,
)
from builders import (
    compare as compare_runs,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.judge import judge_case
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.gate.verdicts import (
    FAILING,
    INCOMPLETE,
    UNACCEPTED,
    VERDICTS,
    CaseVerdict,
    observations_of,
)
from peft_regress.metrics import METRICS, Metric
from peft_regress.report import verdict_text
from peft_regress.runs.schema import MIXED_MACHINES, Defect, Failure, Machine, Selection

quickly = settings(deadline=None, derandomize=True, max_examples=60)

MIXED = msgspec.structs.replace(MACHINE, digest=MIXED_MACHINES)


def compare(
    old: dict[str, Any],
    new: dict[str, Any],
    *,
    identifier: str = LORA,
    policy: Policy = DEFAULT_POLICY,
    environments: tuple[dict[str, str], dict[str, str]] = (ENVIRONMENT, ENVIRONMENT),
    machines: tuple[Machine, Machine] = (MACHINE, MACHINE),
) -> CaseVerdict:
    """Judge one case whose sides differ only in their metrics."""
    before, after = (
        observe(make_record(identifier, metrics), environment=environment, machine=machine)
        for metrics, environment, machine in zip((old, new), environments, machines, strict=True)
    )
    return judge_case(identifier, before, after, policy=policy)


def of_cases(cases: Any, **more: Any) -> Comparison:
    return Comparison(cases=tuple(cases), findings=(), references={}, observed={}, **more)


def verdict_of(old: dict[str, Any], new: dict[str, Any], **how: Any) -> str:
    return compare(old, new, **how).verdict


# --- identical ------------------------------------------------------------------------------


def test_identical_records_are_unchanged() -> None:
    case = compare(VALUES, VALUES)
    assert case.verdict == "unchanged"
    assert case.reasons == ()


samples = st.lists(st.floats(min_value=0, max_value=1e30), min_size=3, max_size=3)
values = {
    "exact": st.integers(min_value=0, max_value=2**63),
    "bytes": st.integers(min_value=0, max_value=2**63),
    "fingerprint": st.lists(st.lists(st.floats(0, 1e30), min_size=2, max_size=2), min_size=3),
    "accuracy": samples,
    "seconds": samples,
    "info": st.floats(min_value=0, max_value=1e30),
}


@quickly
@given(st.data())
def test_an_identical_run_is_unchanged_for_any_numbers(data: st.DataObject) -> None:
    metrics = {name: data.draw(values[METRICS[name].kind], label=name) for name in VALUES}
    run = make_run(make_record(LORA, metrics))
    verdict = compare_runs(observations_of(run, "old"), run)
    assert [case.verdict for case in verdict.cases] == ["unchanged"]
    assert verdict.exit_code == 0


# --- monotonicity ---------------------------------------------------------------------------

GRAVITY = {"improved": 0, "unchanged": 1, "regressed": 2}


def moved(name: str, value: Any, by: float) -> Any:
    """Return a value changed by an amount in the bad direction (any, if none is bad)."""
    if isinstance(value, list):
        return [moved(name, item, by) for item in value]
    return value - by if METRICS[name].direction == "higher" else value + by


AMOUNTS = {
    "forward_flops": st.integers(-(10**9), 10**12),
    "adapter_bytes": st.integers(-600_000, 10**9),
    "peak_bytes": st.integers(-120_000_000, 10**12) | st.integers(-200_000, 200_000),
    "accuracy": st.floats(-0.09, 0.9) | st.floats(0.0399, 0.0401),
    "loss": st.floats(-0.28, 100) | st.floats(0.0289, 0.0291),
    "step_seconds": st.floats(-0.05, 100),
    # Away from the old value is worse, whichever way.
    "trainable_params": st.integers(0, 10**9),
    "first_losses": st.floats(0, 100) | st.floats(0, 1e-4),
}


@pytest.mark.parametrize("name", AMOUNTS)
@quickly
@given(data=st.data())
def test_further_in_the_bad_direction_is_never_judged_milder(
    name: str, data: st.DataObject
) -> None:
    amounts = data.draw(st.tuples(AMOUNTS[name], AMOUNTS[name]))
    less, more = (
        verdict_of({name: VALUES[name]}, {name: moved(name, VALUES[name], by)})
        for by in sorted(amounts)
    )
    assert GRAVITY[less] <= GRAVITY[more]


@pytest.mark.parametrize("name", ["first_losses", "trainable_params"])
def test_a_metric_that_must_stay_the_same_must_not_fall(name: str) -> None:
    for by in (-1, 1):
        new = moved(name, VALUES[name], by)
        assert verdict_of({name: VALUES[name]}, {name: new}) == "regressed"


@pytest.mark.parametrize("name", ["accuracy", "loss", "step_seconds"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@quickly
@given(by=st.floats(0, 0.8), start=st.floats(-0.05, 0.2))
def test_one_seed_getting_worse_never_makes_the_verdict_milder(
    name: str, seed: int, by: float, start: float
) -> None:
    before = moved(name, VALUES[name], start * VALUES[name][0])
    worse = [moved(name, v, by) if i == seed else v for i, v in enumerate(before)]
    first = verdict_of({name: VALUES[name]}, {name: before})
    second = verdict_of({name: VALUES[name]}, {name: worse})
    assert GRAVITY[first] <= GRAVITY[second]


@pytest.mark.parametrize(
    "name", [name for name in AMOUNTS if name not in {"first_losses", "step_seconds"}]
)
def test_a_change_by_twenty_times_in_the_bad_direction_fails(name: str) -> None:
    value = VALUES[name]
    largest = max(value) if isinstance(value, list) else value
    new = [0.0] * 3 if name == "accuracy" else moved(name, value, 20 * largest)
    assert verdict_of({name: value}, {name: new}) == "regressed"


@pytest.mark.parametrize("name", ["forward_flops", "adapter_bytes", "peak_bytes", "total_params"])
@quickly
@given(pair=st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)))
def test_swapping_the_sides_turns_regressed_into_improved(name: str, pair: tuple[int, int]) -> None:
    low, high = sorted(pair)
    if high - low <= high * 0.002:
        return
    assert verdict_of({name: low}, {name: high}) == "regressed"
    assert verdict_of({name: high}, {name: low}) == "improved"


@pytest.mark.parametrize("value", [0.30, 0.75])
def test_swapping_the_sides_turns_lost_accuracy_into_gained(value: float) -> None:
    low, high = {"accuracy": [value] * 3}, {"accuracy": [value + 0.2] * 3}
    assert verdict_of(high, low) == "regressed"
    assert verdict_of(low, high) == "improved"


def test_an_improvement_does_not_excuse_a_regression() -> None:
    old = {"forward_flops": 100, "backward_flops": 100}
    case = compare(old, {"forward_flops": 101, "backward_flops": 1})
    assert case.verdict == "regressed"
    assert {reason.metric: reason.verdict for reason in case.reasons} == {
        "forward_flops": "regressed",
        "backward_flops": "improved",
    }


@quickly
@given(st.sets(st.sampled_from(sorted(AMOUNTS))), st.sampled_from(sorted(AMOUNTS)))
def test_one_more_bad_metric_never_lowers_the_exit_code(bad: set[str], one_more: str) -> None:
    codes = []
    for names in (bad, bad | {one_more}):
        new = {n: moved(n, v, 1) if n in names else v for n, v in VALUES.items()}
        run = make_run(make_record(LORA, new))
        old = observe_all([make_record(LORA, VALUES)])
        codes.append(compare_runs(old, run, expected=[LORA]).exit_code)
    assert {0: 0, 3: 1, 1: 2}[codes[0]] <= {0: 0, 3: 1, 1: 2}[codes[1]]


# --- exact and bytes ------------------------------------------------------------------------


def test_exact_means_one_flop_more_is_a_regression() -> None:
    (reason,) = compare({"forward_flops": 10**12}, {"forward_flops": 10**12 + 1}).reasons
    assert (reason.old, reason.new) == (10**12, 10**12 + 1)
    assert reason.relative_change == pytest.approx(1e-12)
    assert reason.bound == 0


def test_exact_compares_integers_beyond_the_precision_of_floats() -> None:
    assert verdict_of({"forward_flops": 2**62}, {"forward_flops": 2**62 + 1}) == "regressed"


def test_fewer_trained_parameters_are_a_regression_too() -> None:
    assert verdict_of({"trainable_params": 10}, {"trainable_params": 9}) == "regressed"


@pytest.mark.parametrize(
    ("new", "verdict"),
    [(1_000_000, "unchanged"), (1_001_000, "unchanged"), (1_001_001, "regressed"),
     (999_000, "unchanged"), (998_999, "improved")],
)  # fmt: skip
def test_bytes_may_change_by_a_thousandth(new: int, verdict: str) -> None:
    assert verdict_of({"peak_bytes": 1_000_000}, {"peak_bytes": new}) == verdict


@pytest.mark.parametrize("name", ["peak_bytes", "forward_flops", "adapter_bytes"])
def test_something_from_nothing_is_a_regression_without_a_relative_change(name: str) -> None:
    (reason,) = compare({name: 0}, {name: 1}).reasons
    assert (reason.verdict, reason.relative_change) == ("regressed", None)
    assert verdict_of({name: 1}, {name: 0}) == "improved"
    assert verdict_of({name: 0}, {name: 0}) == "unchanged"


# --- fingerprint ----------------------------------------------------------------------------


@pytest.mark.parametrize("identifier", [LORA, GALORE])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_each_loss_has_the_bound_of_its_step(identifier: str, step: int) -> None:
    bound = DEFAULT_POLICY.fingerprint("first_losses", "usual", step=step)
    old = {"first_losses": [[2.0] * 4] * 3}
    for factor, verdict in ((0.9, "unchanged"), (1.1, "regressed")):
        for sign in (-1, 1):
            moved = [2.0] * 4
            moved[step] *= 1 + sign * factor * bound
            new = {"first_losses": [[2.0] * 4, [2.0] * 4, moved]}
            assert verdict_of(old, new, identifier=identifier) == verdict


@pytest.mark.parametrize("fill", [0, 1, 2])
@pytest.mark.parametrize("times", [0.9, 1.1, -0.9, -1.1])
def test_each_fill_has_the_bound_of_fills(fill: int, times: float) -> None:
    before = [2.5, 3.0, 3.5]
    after = list(before)
    after[fill] *= 1 + times * DEFAULT_POLICY.filled_bound
    old, new = (
        observe(make_record(LORA, metrics={"filled_losses": losses})) for losses in (before, after)
    )
    verdict = judge_case(LORA, old, new).verdict
    assert verdict == ("regressed" if abs(times) > 1 else "unchanged")


def test_the_reason_shows_the_loss_nearest_to_its_bound() -> None:
    first, later = (
        DEFAULT_POLICY.fingerprint("first_losses", "usual", step=step) for step in (0, 3)
    )
    old = {"first_losses": [[2.0, 2.0, 2.0, 2.0]]}
    new = {"first_losses": [[2.0 * (1 + 3 * first), 2.0, 2.0, 2.0 * (1 + 2 * later)]]}
    (reason,) = compare(old, new).reasons
    assert reason.relative_change == pytest.approx(3 * first, rel=1e-6)
    assert reason.bound == first


def test_a_change_in_a_later_step_is_found() -> None:
    """`value` is the mean at step 1; a change in only a later step must be found, too."""
    old, new = {"first_losses": [[2.0, 1.9]]}, {"first_losses": [[2.0, 1.8]]}
    (reason,) = compare(old, new).reasons
    assert reason.relative_change == pytest.approx(-0.1 / 1.9)
    assert (reason.old, reason.new) == (1.9, 1.8)


def test_fingerprint_differences_of_two_seeds_do_not_cancel() -> None:
    assert verdict_of({"first_losses": [[2.0], [2.0]]}, {"first_losses": [[2.1], [1.9]]}) == (
        "regressed"
    )


@pytest.mark.parametrize("scale", [1e-4, 2.0])
def test_a_loss_near_zero_is_measured_by_the_largest_of_the_first_losses(scale: float) -> None:
    old = {"first_losses": [[scale, scale, 0.0]], "loss": [0.0]}
    new = {"first_losses": [[scale, scale, scale / 2000]], "loss": [scale / 2000]}
    for reason in compare(old, new).reasons:
        assert reason.relative_change == pytest.approx(0.5)


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 2.0])
def test_a_tenfold_test_loss_regresses_however_small_the_losses_of_the_case_are(
    scale: float,
) -> None:
    losses = {"first_losses": [[scale, 0.9 * scale]]}
    old = {**losses, "loss": [scale / 1000]}
    assert verdict_of(old, {**losses, "loss": [scale / 100]}) == "regressed"
    assert verdict_of({"loss": [1e-4]}, {"loss": [1e-3]}) == "regressed"
    assert verdict_of(old, {**losses, "loss": [1.1 * scale / 1000]}) == "unchanged"


@pytest.mark.parametrize("position", [0, 2])
@pytest.mark.parametrize("name", ["first_losses", "filled_losses", "optimizer_updates"])
def test_what_is_no_number_is_never_unchanged(name: str, position: int) -> None:
    new = [1.0, 1.0, 1.0]
    new[position] = math.nan
    samples = (lambda one: one) if name == "filled_losses" else (lambda one: [one])
    assert verdict_of({name: samples([1.0] * 3)}, {name: samples(new)}) == "regressed"


def test_another_precision_regresses_and_the_bounds_stay_those_of_the_reference() -> None:
    moved = {"first_losses": [[2.3 * (1 + 1e-4)]]}
    old, new = (
        observe(make_record(metrics=metrics, numerics=numerics))
        for metrics, numerics in (({"first_losses": [[2.3]]}, "usual"), (moved, "bfloat16"))
    )
    case = judge_case(LORA, old, new)
    assert [reason.metric for reason in case.reasons] == ["numerics", "first_losses"]
    assert case.reasons[1].bound == DEFAULT_POLICY.fingerprint_bound[0]
    assert [reason.metric for reason in judge_case(LORA, new, old).reasons] == ["numerics"]


# --- accuracy -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "verdict"),
    [(-0.051, "regressed"), (-0.049, "unchanged"), (0.049, "unchanged"), (0.051, "improved")],
)
def test_accuracy_is_judged_in_points_on_both_sides(by: float, verdict: str) -> None:
    old = [0.5, 0.7, 0.9]
    new = [value + by for value in old]
    case = compare({"accuracy": old}, {"accuracy": new})
    assert case.verdict == verdict
    for reason in case.reasons:
        assert reason.relative_change == pytest.approx(by)
        assert reason.bound == DEFAULT_POLICY.accuracy_margin


def test_accuracy_is_the_mean_of_paired_differences() -> None:
    """A seed that lost 12 points among two that won 1 lost 3.3 points in the mean."""
    old = {"accuracy": [0.8, 0.8, 0.8]}
    assert verdict_of(old, {"accuracy": [0.68, 0.81, 0.81]}) == "unchanged"
    assert verdict_of(old, {"accuracy": [0.63, 0.80, 0.80]}) == "regressed"


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.16, "regressed"), (1.14, "unchanged"), (0.86, "unchanged"), (0.84, "improved")],
)
def test_loss_is_judged_relative_to_the_old_loss(factor: float, verdict: str) -> None:
    new = {"loss": [value * factor for value in VALUES["loss"]]}
    assert verdict_of({"loss": VALUES["loss"]}, new) == verdict


@pytest.mark.parametrize("name", ["accuracy", "loss"])
@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_another_number_of_seeds_is_incomparable(name: str, count: int) -> None:
    new = make_metric(name, VALUES[name])
    new = msgspec.structs.replace(new, samples=([0.9] * count) or None)
    case = compare({name: VALUES[name]}, {name: new})
    assert case.verdict == "incomparable"
    (reason,) = case.reasons
    assert (reason.metric, reason.old, reason.new) == (f"{name}.samples", 3, count)


def test_another_number_of_first_losses_is_incomparable() -> None:
    old, new = {"first_losses": [[2.0, 1.9]] * 3}, {"first_losses": [[2.0]] * 3}
    assert verdict_of(old, new) == "incomparable"


def test_single_numbers_and_lists_as_samples_are_incomparable() -> None:
    assert verdict_of({"first_losses": [[2.0]]}, {"first_losses": [2.0]}) == "incomparable"
    scalars = Metric(
        value=2.0, unit="nat", direction="same", kind="fingerprint", samples=[2.0, 2.0]
    )
    empty = msgspec.structs.replace(scalars, samples=[[], []])
    assert verdict_of({"first_losses": scalars}, {"first_losses": empty}) == "incomparable"


@pytest.mark.parametrize("name", ["first_losses", "accuracy", "loss"])
def test_samples_that_hold_no_number_do_not_hide_a_changed_value(name: str) -> None:
    spec = METRICS[name]
    old, new = (
        Metric(value=value, unit=spec.unit, direction=spec.direction, kind=spec.kind, samples=[[]])
        for value in ((1.0, 0.1) if name == "accuracy" else (0.1, 1.0))
    )
    assert verdict_of({name: old}, {name: new}) == "regressed"


# --- seconds --------------------------------------------------------------------------------

SLOW = {"step_seconds": [5.0, 5.0, 5.0]}
FAST = {"step_seconds": [0.05, 0.05, 0.05]}


@pytest.mark.parametrize(
    "machines",
    [(MACHINE, MACHINE), (MACHINE, OTHER_MACHINE), (MIXED, MIXED), (MACHINE, MIXED)],
    ids=["here-here", "here-there", "mixed-mixed", "here-mixed"],
)
def test_the_wall_time_of_one_run_is_never_a_verdict(
    machines: tuple[Machine, Machine],
) -> None:
    assert verdict_of(FAST, SLOW, machines=machines) == "unchanged"
    assert verdict_of(FAST, {}, machines=machines) == "unchanged"


def test_a_run_without_the_timer_is_no_regression() -> None:
    assert verdict_of(FAST, {}) == "unchanged"


def test_relative_seconds_are_shown_and_never_judged() -> None:
    assert verdict_of({"relative_step_seconds": 1.0}, {"relative_step_seconds": 9.0}) == (
        "unchanged"
    )


# --- aten_ops and info ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["aten_ops", "aten_ops_b32"])
def test_ops_are_exact_while_torch_is_the_same(name: str) -> None:
    assert verdict_of({name: 900}, {name: 901}) == "regressed"
    assert verdict_of({name: 900}, {name: 899}) == "improved"


@pytest.mark.parametrize("name", ["aten_ops", "aten_ops_b32"])
@pytest.mark.parametrize("other", [{**ENVIRONMENT, "torch": "2.12.0"}, {"peft": "0.18.1"}])
def test_ops_are_informative_if_torch_differs(name: str, other: dict[str, str]) -> None:
    for environments in ((ENVIRONMENT, other), (other, ENVIRONMENT)):
        assert verdict_of({name: 900}, {name: 999}, environments=environments) == "unchanged"
        assert verdict_of({name: 900}, {}, environments=environments) == "unchanged"


def test_flops_are_exact_for_any_torch() -> None:
    environments = (ENVIRONMENT, {**ENVIRONMENT, "torch": "2.12.0"})
    old, new = {"forward_flops": 900}, {"forward_flops": 901}
    assert verdict_of(old, new, environments=environments) == "regressed"


def test_the_papers_counters_are_not_judged() -> None:
    assert verdict_of({"paper_forward_flops": 1}, {"paper_forward_flops": 2}) == "unchanged"
    assert verdict_of({"paper_forward_flops": 1}, {}) == "unchanged"


# --- metrics that come, go, or turn into something else -------------------------------------


@pytest.mark.parametrize("name", sorted(VALUES.keys() - {"step_seconds"}))
def test_a_metric_that_vanished_is_a_regression(name: str) -> None:
    new = {key: value for key, value in VALUES.items() if key != name}
    (reason,) = compare(VALUES, new).reasons
    assert (reason.metric, reason.new, reason.verdict) == (name, None, "regressed")


def test_new_work_is_a_regression() -> None:
    """A method that starts to compute SVDs in `step()` has no old number to differ from."""
    assert verdict_of({}, {"projection_flops": 10**12}) == "regressed"


@pytest.mark.parametrize("name", ["peak_bytes", "first_losses", "accuracy"])
def test_a_judged_metric_that_is_new_is_incomparable(name: str) -> None:
    assert verdict_of({}, {name: VALUES[name]}) == "incomparable"


@pytest.mark.parametrize("name", ["step_seconds", "relative_step_seconds", "paper_forward_flops"])
def test_a_time_or_an_informative_metric_may_appear(name: str) -> None:
    assert verdict_of({}, {name: VALUES.get(name, 1)}) == "unchanged"


@pytest.mark.parametrize(
    "change",
    [{"unit": "byte"}, {"direction": "higher"}, {"kind": "info"}, {"kind": "seconds"}],
)
def test_a_metric_of_another_unit_direction_or_kind_is_incomparable(
    change: dict[str, Any],
) -> None:
    old = make_metric("forward_flops", 10)
    new = msgspec.structs.replace(old, **change)
    for machine in (MACHINE, OTHER_MACHINE):
        where = {"machines": (MACHINE, machine)}
        assert verdict_of({"forward_flops": old}, {"forward_flops": new}, **where) == "incomparable"
        # A baseline that claims that nothing needs judging hides nothing either.
        assert verdict_of({"forward_flops": new}, {"forward_flops": old}, **where) == "incomparable"


# --- states ---------------------------------------------------------------------------------

STATES = ("ok", "unsupported", "error")
TRANSITIONS = {
    ("ok", "ok"): "unchanged",
    ("ok", "unsupported"): "newly_failing",
    ("ok", "error"): "newly_failing",
    ("unsupported", "ok"): "fixed",
    ("unsupported", "unsupported"): "unchanged",
    ("unsupported", "error"): "newly_failing",
    ("error", "ok"): "fixed",
    ("error", "unsupported"): "fixed",
    ("error", "error"): "known_defect",
}


@pytest.mark.parametrize("pair", list(itertools.product(STATES, STATES)), ids="-to-".join)
def test_status_transition(pair: tuple[str, str]) -> None:
    old, new = (observe(make_record(LORA, status=status)) for status in pair)
    assert judge_case(LORA, old, new).verdict == TRANSITIONS[pair]


def test_newly_failing_says_with_what_error() -> None:
    broken = make_record(status="error", error=Failure(type="KeyError", message="'conv1'"))
    (reason,) = judge_case(LORA, observe(make_record()), observe(broken)).reasons
    assert (reason.old, reason.new) == ("ok", "error (KeyError: 'conv1')")


def failed(kind: str, message: str, after_steps: Any = UNSET) -> Any:
    error = Failure(type=kind, message=message, after_steps=after_steps)
    return make_record(LORA, status="error", error=error)


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (("KeyError", "'conv1'"), ("KeyError", "'conv2'"), "known_defect"),
        (("OSError", "no /tmp/tmpabc/a"), ("OSError", "no /tmp/tmpxyz/a"), "known_defect"),
        (("KeyError", "'conv1'"), ("TypeError", "'conv1'"), "newly_failing"),
        (("ValueError", "no module"), ("ValueError", "no parameter"), "newly_failing"),
        (("ValueError", "bad", 5), ("ValueError", "bad", 5), "known_defect"),
        (("ValueError", "bad", 5), ("ValueError", "bad", 1), "newly_failing"),
        (("ValueError", "bad"), ("ValueError", "bad", 1), "known_defect"),
    ],
)
def test_an_error_is_known_by_its_type_its_message_and_its_step(
    old: Any, new: Any, verdict: str
) -> None:
    sides = [observe(failed(*side)) for side in (old, new)]
    assert judge_case(LORA, *sides).verdict == verdict


def test_an_error_at_another_step_says_so() -> None:
    sides = [observe(failed("ValueError", "bad", steps)) for steps in (5, 1)]
    (reason,) = judge_case(LORA, *sides).reasons
    assert reason.old == "error (ValueError: bad) after 5 steps"
    assert reason.new == "error (ValueError: bad) after 1 step"


def test_metrics_of_a_failing_case_are_not_compared() -> None:
    """A library may stop half-way: then only the status counts."""
    old = make_record(LORA, {"forward_flops": 1}, status="error")
    new = make_record(LORA, {"forward_flops": 2}, status="error")
    assert judge_case(LORA, observe(old), observe(new)).verdict == "known_defect"


# --- invariants -----------------------------------------------------------------------------

FACTS: tuple[Any, ...] = (True, False, None, "absent")
INVARIANTS = {
    (True, True): "unchanged",
    (True, False): "regressed",
    (True, None): "regressed",
    (True, "absent"): "regressed",
    (False, True): "fixed",
    (False, False): "known_defect",
    (False, None): "regressed",
    (False, "absent"): "regressed",
    (None, True): "unchanged",
    (None, False): "regressed",
    (None, None): "unchanged",
    (None, "absent"): "unchanged",
    ("absent", True): "unchanged",
    ("absent", False): "regressed",
    ("absent", None): "unchanged",
    ("absent", "absent"): "unchanged",
}


@pytest.mark.parametrize("pair", list(itertools.product(FACTS, FACTS)), ids=str)
def test_invariant_transition(pair: tuple[Any, Any]) -> None:
    old, new = (
        observe(make_record(invariants={} if fact == "absent" else {"merge": fact}))
        for fact in pair
    )
    assert judge_case(LORA, old, new).verdict == INVARIANTS[pair]


def test_a_known_defect_does_not_hide_a_new_one() -> None:
    old = make_record(invariants={"merge": False, "frozen": True})
    new = make_record(invariants={"merge": False, "frozen": False})
    case = judge_case(LORA, observe(old), observe(new))
    assert case.verdict == "regressed"
    assert [reason.metric for reason in case.reasons] == ["invariant frozen", "invariant merge"]


KEY, TYPE = (Failure(type=kind, message="'neck'") for kind in ("KeyError", "TypeError"))


def broken(note: str = "", **defect: Any) -> Any:
    return make_record(
        invariants={"merge": False},
        invariant_notes={"merge": note},
        defects={"merge": Defect(**defect)},
    )


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ({"error": KEY}, {"error": KEY}, "known_defect"),
        ({"error": KEY}, {"error": TYPE}, "regressed"),
        ({"size": 0.02}, {"error": KEY}, "regressed"),
        ({"tensors": ["a", "b"]}, {"tensors": ["b"]}, "known_defect"),
        ({"tensors": ["a", "b"]}, {"note": "another cause, in words"}, "regressed"),
        ({"tensors": ["a", "b"]}, {"tensors": ["b", "c"]}, "regressed"),
        ({"size": 4e-5}, {"size": 3e-4}, "known_defect"),
        ({"size": 3.0}, {"size": 4e-5}, "known_defect"),
        ({"size": 4e-5}, {"size": 3.0}, "regressed"),
        ({"tensors": ["a"]}, {"tensors": ["a"], "size": 3.0}, "regressed"),
        ({"note": "the loss is 0.31"}, {"note": "the loss is 0.32"}, "known_defect"),
        ({"note": "it depends on a second one"}, {"note": "it names a second one"}, "regressed"),
    ],
)
def test_a_false_invariant_is_known_by_its_error_its_tensors_and_its_size(
    old: Any, new: Any, verdict: str
) -> None:
    assert judge_case(LORA, observe(broken(**old)), observe(broken(**new))).verdict == verdict


def test_another_defect_of_an_invariant_shows_both_notes() -> None:
    sides = [
        observe(broken(f"the outputs differ by {size} of the largest", size=size))
        for size in (4e-5, 3.0)
    ]
    comparison = compare_runs([sides[0].record], [sides[1].record])
    assert (
        "invariant merge: false: the outputs differ by 4e-05 of the largest -> false: the outputs "
        "differ by 3.0 of the largest"
    ) in " ".join(verdict_text(comparison).split())


def test_what_an_old_record_did_not_say_of_a_defect_is_no_difference() -> None:
    old = msgspec.structs.replace(broken("off by 1e-4"), defects=UNSET)
    new = broken("off by 3.0", size=3.0)
    assert judge_case(LORA, observe(old), observe(new)).verdict == "known_defect"


# --- definition, missing, new ---------------------------------------------------------------


def test_a_changed_definition_is_incomparable_for_any_numbers() -> None:
    old = observe(make_record(LORA, {"forward_flops": 1}, definition="sha256:a"))
    new = observe(make_record(LORA, {"forward_flops": 9}, definition="sha256:b"))
    case = judge_case(LORA, old, new)
    assert case.verdict == "incomparable"
    assert [reason.metric for reason in case.reasons] == ["definition", "forward_flops"]


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ({"steps": "30", "adapter r": "4"}, {"steps": "30", "adapter r": "8"}, {"r": ("4", "8")}),
        ({}, {"adapter alpha": "8"}, {"alpha": (None, "8")}),
        ({"adapter r": "4"}, {"adapter r": "4"}, {}),
        (UNSET, {"adapter r": "4"}, {}),
    ],
)
def test_a_changed_definition_names_the_settings_that_both_sides_recorded(
    old: Any, new: Any, changed: dict[str, tuple[str | None, str]]
) -> None:
    sides = [
        observe(make_record(definition=digest, settings=settings))
        for digest, settings in (("sha256:a", old), ("sha256:b", new))
    ]
    case = judge_case(LORA, *sides)
    assert case.verdict == "incomparable"
    found = {reason.metric: (reason.old, reason.new) for reason in case.reasons}
    named = {f"definition adapter {name}": pair for name, pair in changed.items()}
    assert found == (named or {"definition": ("sha256:a", "sha256:b")})


def test_settings_alone_are_no_difference() -> None:
    sides = [observe(make_record(settings={"adapter r": rank})) for rank in "48"]
    assert judge_case(LORA, *sides).verdict == "unchanged"


def test_what_is_false_in_a_case_that_nothing_judges_is_a_reason() -> None:
    new = make_record(
        invariants={"merge": False, "frozen": True, "toggling": None},
        invariant_notes={"merge": "head: off by 0.3"},
    )
    case = judge_case(LORA, None, observe(new))
    assert case.verdict == "new"
    assert [(one.metric, one.new, one.note) for one in case.reasons] == [
        ("invariant merge", False, "head: off by 0.3")
    ]


def test_what_fails_stands_before_what_got_better() -> None:
    old = make_record(invariants={"merge": True})
    new = make_record(
        LORA,
        {**VALUES, "forward_flops": 1, "peak_bytes": VALUES["peak_bytes"] * 2},
        invariants={"merge": False},
    )
    reasons = judge_case(LORA, observe(old), observe(new)).reasons
    assert [(reason.metric, reason.verdict) for reason in reasons] == [
        ("peak_bytes", "regressed"),
        ("invariant merge", "regressed"),
        ("forward_flops", "improved"),
    ]


def test_a_changed_definition_does_not_excuse_a_crash() -> None:
    old = observe(make_record(definition="sha256:a"))
    new = observe(make_record(definition="sha256:b", status="error"))
    assert judge_case(LORA, old, new).verdict == "newly_failing"


def test_a_case_without_a_record_is_missing() -> None:
    assert judge_case(LORA, observe(make_record()), None).verdict == "missing"


def test_a_case_without_reference_or_record_is_missing() -> None:
    assert judge_case(LORA, None, None).verdict == "missing"


def test_a_case_without_a_reference_is_new() -> None:
    assert judge_case(LORA, None, observe(make_record())).verdict == "new"


# --- runs -----------------------------------------------------------------------------------


def test_every_verdict_either_fails_is_incomplete_or_passes() -> None:
    assert not FAILING & INCOMPLETE
    assert not (FAILING | INCOMPLETE) & UNACCEPTED
    assert set(VERDICTS) - FAILING - INCOMPLETE - UNACCEPTED == {"known_defect", "unchanged"}


@pytest.mark.parametrize(
    ("verdicts", "complete", "code"),
    [
        (["unchanged"], True, 0),
        (["unchanged", "improved", "fixed", "known_defect"], True, 0),
        (["unchanged"], False, 3),
        ([], True, 3),
        ([], False, 3),
        (["unchanged", "new"], True, 3),
        (["unchanged", "missing"], True, 3),
        (["incomparable"], True, 3),
        (["regressed"], True, 1),
        (["newly_failing"], True, 1),
        (["regressed", "missing"], False, 1),
        (["newly_failing", "incomparable", "new"], True, 1),
    ],
)
def test_exit_code(verdicts: list[Any], complete: bool, code: int) -> None:
    cases = tuple(CaseVerdict(id=str(i), verdict=verdict) for i, verdict in enumerate(verdicts))
    assert of_cases(cases, complete=complete).exit_code == code


@pytest.mark.parametrize(
    ("verdicts", "lenient", "strict"),
    [
        (["unchanged", "improved"], 0, 1),
        (["fixed", "missing"], 3, 1),
        (["missing", "unchanged"], 3, 3),
        (["regressed", "improved"], 1, 1),
    ],
)
def test_strictness_fails_improvements(verdicts: list[Any], lenient: int, strict: int) -> None:
    cases = [CaseVerdict(id=verdict, verdict=verdict) for verdict in verdicts]
    comparison = of_cases(cases, invocation=Invocation(strict=True))
    assert (comparison.lenient_exit_code, comparison.exit_code) == (lenient, strict)
    assert {case.verdict for case in comparison.red} == {*verdicts} - {"unchanged"}
    assert of_cases(cases).exit_code == lenient
    assert not {case.verdict for case in of_cases(cases).red} & {"improved", "fixed", "unchanged"}


def test_a_case_that_fails_or_was_not_compared_is_red() -> None:
    cases = [CaseVerdict(id=verdict, verdict=verdict) for verdict in VERDICTS]
    assert {case.verdict for case in of_cases(cases).red} == FAILING | INCOMPLETE


def test_findings_and_both_sides_are_in_the_comparison() -> None:
    old = observe_all([make_record(LORA, {"forward_flops": 1})])
    comparison = compare_runs(old, make_run(make_record(LORA, {"forward_flops": 2})))
    assert [finding.cases for finding in comparison.findings] == [(LORA,)]
    assert comparison.references == old
    assert comparison.observed[LORA].record.metrics["forward_flops"].value == 2


def test_two_empty_runs_are_incomplete() -> None:
    run = msgspec.structs.replace(make_run(), cases={})
    assert compare_runs({}, run).exit_code == 3


def test_an_expected_case_that_did_not_run_is_missing() -> None:
    old = observe_all([make_record(LORA), make_record(FULL)])
    verdict = compare_runs(old, make_run(make_record(LORA)))
    assert {case.id: case.verdict for case in verdict.cases} == {LORA: "unchanged", FULL: "missing"}
    assert verdict.exit_code == 3


def test_an_unexpected_case_is_judged_too() -> None:
    old = observe_all([make_record(LORA, {"forward_flops": 1})])
    verdict = compare_runs(old, make_run(make_record(LORA, {"forward_flops": 2})), expected=[])
    assert verdict.exit_code == 1


def test_an_unexpected_case_that_did_not_run_is_left_out() -> None:
    old = observe_all([make_record(LORA), make_record(FULL)])
    verdict = compare_runs(old, make_run(make_record(LORA)), expected=[LORA])
    assert [case.id for case in verdict.cases] == [LORA]


def test_a_partial_run_is_incomplete_even_if_all_of_it_is_unchanged() -> None:
    run = make_run(make_record(LORA), selection=Selection(complete=False, narrowed_by=["-k x"]))
    assert compare_runs(observe_all([make_record(LORA)]), run).exit_code == 3


def test_counts_add_up_gravest_first() -> None:
    verdicts = ("unchanged", "regressed", "unchanged", "new")
    cases = tuple(CaseVerdict(id=str(i), verdict=v) for i, v in enumerate(verdicts))
    counts = of_cases(cases).counts
    assert list(counts.items()) == [("regressed", 1), ("new", 1), ("unchanged", 2)]


def test_unaccepted_cases_are_the_better_ones() -> None:
    cases = tuple(CaseVerdict(id=verdict, verdict=verdict) for verdict in VERDICTS)
    found = of_cases(cases).unaccepted
    assert {case.verdict for case in found} == {"improved", "fixed"}


def test_judging_changes_nothing_and_gives_the_same_again() -> None:
    run = make_run(make_record(LORA))
    before = msgspec.json.encode(run)
    old = observe_all([make_record(LORA, {"forward_flops": 1})])
    assert compare_runs(old, run) == compare_runs(old, run)
    assert msgspec.json.encode(run) == before


def test_a_ratio_beyond_the_largest_float_is_left_out() -> None:
    """JSON has no infinity; the two values say enough."""
    (reason,) = compare({"loss": [0.0, 0.0, 0.0]}, {"loss": [1e307, 1e307, 1e307]}).reasons
    assert (reason.verdict, reason.relative_change, reason.new) == ("regressed", None, 1e307)


def test_the_given_policy_decides() -> None:
    lax = dataclasses.replace(DEFAULT_POLICY, bytes_bound=0.5, accuracy_margin=0.9)
    assert verdict_of({"peak_bytes": 10}, {"peak_bytes": 14}, policy=lax) == "unchanged"
    assert verdict_of({"accuracy": [0.9]}, {"accuracy": [0.1]}, policy=lax) == "unchanged"
