"""The gate: worse never passes if better fails, and a case that was not compared never passes."""

import itertools
import math
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from builders import (
    ENVIRONMENT,
    FULL,
    LORA,
    VALUES,
    judged,
    make_metric,
    make_record,
    make_run,
    observe,
    observe_all,
)
from builders import compare as compare_runs
from msgspec import UNSET

from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.judge import judge, judge_case
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.gate.verdicts import FAILING, INCOMPLETE, UNACCEPTED, VERDICTS, CaseVerdict
from peft_regress.report import verdict_text
from peft_regress.runs.schema import Defect, Failure


def compare(old, new, environments=(None, None)):
    """Judge one case whose sides differ only in their metrics."""
    sides = zip((old, new), environments, strict=True)
    return judge_case(LORA, *(observe(make_record(LORA, m), environment=e) for m, e in sides))


def of_verdicts(verdicts, **more):
    cases = tuple(CaseVerdict(id=str(at), verdict=one) for at, one in enumerate(verdicts))
    return Comparison(cases=cases, findings=(), references={}, observed={}, **more)


NAN = math.nan
SLOW, FAST = [5.0] * 3, [0.05] * 3


def of_seed(*losses):
    return [[*losses]]


@pytest.mark.parametrize(
    ("name", "old", "new", "verdict"),
    [
        # Exact: also beyond the precision of floats, and whichever way where it must stay the same.
        ("forward_flops", 2**62, 2**62 + 1, "regressed"),
        ("trainable_params", 10, 9, "regressed"),
        ("trainable_params", 10, 11, "regressed"),
        # Bytes may change by a thousandth.
        ("peak_bytes", 1_000_000, 1_001_000, "unchanged"),
        ("peak_bytes", 1_000_000, 1_001_001, "regressed"),
        ("peak_bytes", 1_000_000, 999_000, "unchanged"),
        ("peak_bytes", 1_000_000, 998_999, "improved"),
        # Something from nothing is worse, whatever the bound.
        *((name, 0, 1, "regressed") for name in ("peak_bytes", "forward_flops", "adapter_bytes")),
        *((name, 1, 0, "improved") for name in ("peak_bytes", "forward_flops", "adapter_bytes")),
        ("peak_bytes", 0, 0, "unchanged"),
        # Differences of two seeds, or at later steps, do not cancel out.
        ("first_losses", [[2.0], [2.0]], [[2.1], [1.9]], "regressed"),
        ("first_losses", of_seed(2.0, 1.9), of_seed(2.0, 1.8), "regressed"),
        ("loss", [1e-4], [1e-3], "regressed"),
        # What is no number is never unchanged.
        *(
            (name, of_seed(1.0, 1.0, 1.0), of_seed(*new), "regressed")
            for name in ("first_losses", "optimizer_updates")
            for new in ((NAN, 1.0, 1.0), (1.0, 1.0, NAN))
        ),
        ("filled_losses", [1.0, 1.0, 1.0], [NAN, 1.0, 1.0], "regressed"),
        ("filled_losses", [1.0, 1.0, 1.0], [1.0, 1.0, NAN], "regressed"),
        # Accuracy in points, the mean of paired differences.
        *(
            ("accuracy", [0.5, 0.7, 0.9], [0.5 + by, 0.7 + by, 0.9 + by], verdict)
            for by, verdict in (
                (-0.051, "regressed"),
                (-0.049, "unchanged"),
                (0.049, "unchanged"),
                (0.051, "improved"),
            )
        ),
        ("accuracy", [0.8] * 3, [0.68, 0.81, 0.81], "unchanged"),
        ("accuracy", [0.8] * 3, [0.63, 0.80, 0.80], "regressed"),
        # Loss relative to the old one.
        *(
            ("loss", VALUES["loss"], [factor * loss for loss in VALUES["loss"]], verdict)
            for factor, verdict in (
                (1.16, "regressed"),
                (1.14, "unchanged"),
                (0.86, "unchanged"),
                (0.84, "improved"),
            )
        ),
        # Another number of samples, or none.
        *(("accuracy", [0.9] * 3, other, "incomparable") for other in (0.9, [0.9] * 2, [0.9] * 4)),
        ("first_losses", [[2.0, 1.9]] * 3, [[2.0]] * 3, "incomparable"),
        ("first_losses", [[2.0]], [2.0], "incomparable"),
        # The wall time of one run, and what is for information, is shown.
        ("step_seconds", FAST, SLOW, "unchanged"),
        ("step_seconds", FAST, None, "unchanged"),
        ("step_seconds", None, SLOW, "unchanged"),
        ("relative_step_seconds", 1.0, 9.0, "unchanged"),
        ("relative_step_seconds", None, 1, "unchanged"),
        ("paper_forward_flops", 1, 2, "unchanged"),
        ("paper_forward_flops", 1, None, "unchanged"),
        ("paper_forward_flops", None, 1, "unchanged"),
        ("aten_ops", None, 901, "regressed"),
        # What is new: a method that starts to compute SVDs has no old number to differ from.
        ("projection_flops", None, 10**12, "regressed"),
        *((name, None, VALUES[name], "incomparable")
          for name in ("peak_bytes", "first_losses", "accuracy")),
        # What vanished.
        *((name, VALUES[name], None, "regressed") for name in VALUES if name != "step_seconds"),
    ],
)  # fmt: skip
def test_the_verdict_on_a_metric(name, old, new, verdict):
    sides = ({} if value is None else {name: value} for value in (old, new))
    assert compare(*sides).verdict == verdict


def test_what_fails_stands_before_what_got_better_or_was_known_and_is_not_excused_by_it():
    values = {**VALUES, "forward_flops": 1, "peak_bytes": VALUES["peak_bytes"] * 2}
    old = make_record(invariants={"merge": True, "frozen": False})
    new = make_record(LORA, values, invariants={"merge": False, "frozen": False})
    case = judged(old, new)
    assert case.verdict == "regressed"
    assert [(reason.name, reason.verdict) for reason in case.reasons] == [
        ("invariant merge", "regressed"),
        ("peak_bytes", "regressed"),
        ("forward_flops", "improved"),
        ("invariant frozen", "known_defect"),
    ]


def test_operators_beside_an_invariant_that_is_mended_are_a_remark():
    old = make_record(invariants={"merge": False})
    case = judged(old, make_record(LORA, {**VALUES, **MORE}, invariants={"merge": True}))
    assert case.verdict == "fixed"
    assert "operators" in {one.kind for one in case.remarks}


NEWER = {"environment": {**ENVIRONMENT, "peft": "0.19.0"}}
MORE = {"aten_ops": 901}


@pytest.mark.parametrize(
    ("values", "where", "verdict"),
    [
        (MORE, {}, "unchanged"),
        ({"aten_ops": 899}, {}, "unchanged"),
        (MORE, NEWER, "regressed"),
        (MORE, {"has_direct": True}, "regressed"),
        (MORE | {"forward_flops": VALUES["forward_flops"] + 1}, {}, "regressed"),
        (MORE | {"peak_bytes": VALUES["peak_bytes"] + 1}, {}, "regressed"),
        (MORE | {"first_losses": [[2.3 + 1e-9, 2.2, 2.1, 2.0]] * 3}, {}, "regressed"),
    ],
)
def test_other_operators_are_a_remark_where_nothing_else_changed_and_no_package(
    values, where, verdict
):
    old = observe(make_record())
    new = replace(observe(make_record(LORA, {**VALUES, **values})), **where)
    case = judge_case(LORA, old, new)
    assert case.verdict == verdict
    is_remark = verdict == "unchanged"
    assert [one.kind for one in case.remarks].count("operators") == is_remark
    for strict in (False, True):
        comparison = judge({LORA: old}, {LORA: new}, invocation=Invocation(strict=strict))
        assert comparison.exit_code == (1 if strict or not is_remark else 0)


@pytest.mark.parametrize("step", [0, 1, 2, 3])
@pytest.mark.parametrize(("share", "verdict"), [(0.9, "unchanged"), (1.1, "regressed")])
def test_each_loss_has_the_bound_of_its_step(step, share, verdict):
    bound = DEFAULT_POLICY.fingerprint("first_losses", "usual", step=step)
    for sign in (-1, 1):
        moved = [2.0] * 4
        moved[step] *= 1 + sign * share * bound
        sides = ({"first_losses": [[2.0] * 4] * 2 + [last]} for last in ([2.0] * 4, moved))
        assert compare(*sides).verdict == verdict


def test_the_reason_shows_the_loss_nearest_to_its_bound():
    first, later = (
        DEFAULT_POLICY.fingerprint("first_losses", "usual", step=step) for step in (0, 3)
    )
    old = {"first_losses": of_seed(2.0, 2.0, 2.0, 2.0)}
    new = {"first_losses": of_seed(2.0 * (1 + 3 * first), 2.0, 2.0, 2.0 * (1 + 2 * later))}
    (reason,) = compare(old, new).reasons
    assert reason.relative_change == pytest.approx(3 * first, rel=1e-6)
    assert reason.bound == first


@pytest.mark.parametrize("scale", [1e-3, 2.0])
def test_a_loss_near_zero_is_measured_by_the_largest_of_the_first_losses(scale):
    """So a tenfold test loss regresses however small the losses of a case are."""
    old = {"first_losses": [[scale, scale, 0.0]], "loss": [0.0]}
    new = {"first_losses": [[scale, scale, scale / 2000]], "loss": [scale / 2000]}
    assert [one.relative_change for one in compare(old, new).reasons] == pytest.approx([0.5, 0.5])
    sides = ({"first_losses": [[scale]], "loss": [scale / share]} for share in (1000, 100, 950))
    old, tenfold, near = sides
    verdicts = [compare(old, new).verdict for new in (tenfold, near)]
    assert verdicts == ["regressed", "unchanged"]


def test_another_precision_regresses_and_the_bounds_stay_those_of_the_reference():
    old, new = (
        make_record(metrics={"first_losses": [[loss]]}, numerics=numerics)
        for loss, numerics in ((2.3, "usual"), (2.3 * (1 + 1e-4), "bfloat16"))
    )
    case = judged(old, new)
    assert [reason.name for reason in case.reasons] == ["numerics", "first_losses"]
    assert case.reasons[1].bound == DEFAULT_POLICY.fingerprint_bound[0]
    assert [reason.name for reason in judged(new, old).reasons] == ["numerics"]


@pytest.mark.parametrize("other", [{**ENVIRONMENT, "torch": "2.12.0"}, {"peft": "0.18.1"}])
@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ({"aten_ops": 900}, {"aten_ops": 999}, "unchanged"),
        ({"aten_ops_b32": 900}, {}, "unchanged"),
        ({"forward_flops": 900}, {"forward_flops": 901}, "regressed"),
    ],
)
def test_only_operators_depend_on_the_release_of_torch(other, old, new, verdict):
    for environments in ((ENVIRONMENT, other), (other, ENVIRONMENT)):
        assert compare(old, new, environments).verdict == verdict


@pytest.mark.parametrize(
    "change", [{"unit": "byte"}, {"direction": "higher"}, {"kind": "info"}, {"kind": "seconds"}]
)
def test_a_metric_of_another_unit_direction_or_kind_is_incomparable(change):
    old = make_metric("forward_flops", 10)
    sides = [{"forward_flops": one} for one in (old, msgspec.structs.replace(old, **change))]
    # A baseline that claims that nothing needs judging hides nothing either.
    for pair in (sides, sides[::-1]):
        assert compare(*pair).verdict == "incomparable"


STATES = ("ok", "unsupported", "error")
TRANSITIONS = {
    **dict.fromkeys(itertools.combinations(STATES, 2), "newly_failing"),
    **dict.fromkeys(itertools.combinations(STATES[::-1], 2), "fixed"),
    **{(state, state): "unchanged" for state in STATES},
    ("error", "error"): "known_defect",
}


@pytest.mark.parametrize("pair", TRANSITIONS, ids="-to-".join)
def test_status_transition(pair):
    """A failing case may have stopped half-way: its metrics are not compared."""
    old, new = (
        make_record(LORA, {"forward_flops": at} if state == "error" else None, status=state)
        for at, state in enumerate(pair)
    )
    assert judged(old, new).verdict == TRANSITIONS[pair]
    crash = msgspec.structs.replace(new, definition="sha256:other")
    if TRANSITIONS[pair] == "newly_failing":
        assert judged(old, crash).verdict == "newly_failing", "another definition is no excuse"


def failed(kind, message, after_steps=UNSET):
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
def test_an_error_is_known_by_its_type_its_message_and_its_step(old, new, verdict):
    assert judged(failed(*old), failed(*new)).verdict == verdict


def test_a_failure_says_with_what_error_and_after_which_step():
    (reason,) = judged(*(failed("ValueError", "bad", steps) for steps in (5, 1))).reasons
    assert reason.old == "error (ValueError: bad) after 5 steps"
    assert reason.new == "error (ValueError: bad) after 1 step"


FACTS: tuple[Any, ...] = (True, False, None, "absent")
INVARIANTS = {
    **dict.fromkeys(itertools.product(FACTS, FACTS), "unchanged"),
    (True, False): "regressed",
    (True, None): "regressed",
    (True, "absent"): "regressed",
    (False, True): "fixed",
    (False, False): "known_defect",
    (False, None): "regressed",
    (False, "absent"): "regressed",
    (None, False): "regressed",
    ("absent", False): "regressed",
}


@pytest.mark.parametrize("pair", INVARIANTS, ids=str)
def test_invariant_transition(pair):
    sides = (make_record(invariants={} if fact == "absent" else {"merge": fact}) for fact in pair)
    assert judged(*sides).verdict == INVARIANTS[pair]


KEY, TYPE = (Failure(type=kind, message="'neck'") for kind in ("KeyError", "TypeError"))


def broken(note="", **defect):
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
def test_a_false_invariant_is_known_by_its_error_its_tensors_and_its_size(old, new, verdict):
    assert judged(broken(**old), broken(**new)).verdict == verdict


def test_another_defect_of_an_invariant_shows_both_notes():
    old, new = (broken(f"off by {size}", size=size) for size in (4e-5, 3.0))
    shown = " ".join(verdict_text(compare_runs([old], [new])).split())
    assert "invariant merge: false: off by 4e-05 -> false: off by 3.0" in shown


def test_what_an_old_record_did_not_say_of_a_defect_is_no_difference():
    old = msgspec.structs.replace(broken("off by 1e-4"), defects=UNSET)
    assert judged(old, broken("off by 3.0", size=3.0)).verdict == "known_defect"


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ({"steps": "30", "adapter r": "4"}, {"steps": "30", "adapter r": "8"}, {"r": ("4", "8")}),
        ({}, {"adapter alpha": "8"}, {"alpha": (None, "8")}),
        ({"adapter r": "4"}, {"adapter r": "4"}, {}),
        (UNSET, {"adapter r": "4"}, {}),
    ],
)
def test_a_changed_definition_is_incomparable_and_names_the_settings_that_both_sides_recorded(
    old, new, changed
):
    sides = [
        make_record(LORA, {"forward_flops": flops}, definition=digest, settings=settings)
        for digest, settings, flops in (("sha256:a", old, 1), ("sha256:b", new, 9))
    ]
    case = judged(*sides)
    assert case.verdict == "incomparable"
    found = {reason.name: (reason.old, reason.new) for reason in case.reasons}
    assert found.pop("forward_flops") == (1, 9)
    named = {f"definition adapter {name}": pair for name, pair in changed.items()}
    assert found == (named or {"definition": ("sha256:a", "sha256:b")})


def test_a_case_without_a_record_is_missing_and_one_without_a_reference_new():
    assert judged(make_record(), None).verdict == judged(None, None).verdict == "missing"
    facts = {"merge": False, "frozen": True, "toggling": None}
    case = judged(None, make_record(invariants=facts, invariant_notes={"merge": "off by 0.3"}))
    # What is false is a reason although nothing judges it.
    reasons = [(one.name, one.new, one.note) for one in case.reasons]
    assert (case.verdict, reasons) == ("new", [("invariant merge", False, "off by 0.3")])


def test_every_verdict_either_fails_is_incomplete_or_passes():
    assert not FAILING & INCOMPLETE
    assert not (FAILING | INCOMPLETE) & UNACCEPTED
    assert set(VERDICTS) - FAILING - INCOMPLETE - UNACCEPTED == {"known_defect", "unchanged"}
    assert {"improved", "fixed"} == UNACCEPTED
    counts = of_verdicts(("unchanged", "regressed", "unchanged", "new")).counts
    assert list(counts.items()) == [("regressed", 1), ("new", 1), ("unchanged", 2)]


@pytest.mark.parametrize(
    ("verdicts", "complete", "lenient", "strict"),
    [
        (["unchanged"], True, 0, 0),
        (["unchanged", "improved", "fixed", "known_defect"], True, 0, 1),
        (["unchanged"], False, 3, 3),
        ([], True, 3, 3),
        (["unchanged", "new"], True, 3, 3),
        (["unchanged", "missing"], True, 3, 3),
        (["fixed", "missing"], True, 3, 1),
        (["incomparable"], True, 3, 3),
        (["regressed", "improved"], True, 1, 1),
        (["regressed", "missing"], False, 1, 1),
        (["newly_failing", "incomparable", "new"], True, 1, 1),
    ],
)
def test_exit_code(verdicts, complete, lenient, strict):
    passing = {"unchanged", "known_defect"}
    comparison, usual = (
        of_verdicts(verdicts, complete=complete, invocation=Invocation(strict=is_strict))
        for is_strict in (True, False)
    )
    assert comparison.lenient_exit_code == usual.exit_code == lenient
    assert comparison.exit_code == strict
    assert {case.verdict for case in comparison.red} == {*verdicts} - passing
    assert {case.verdict for case in usual.red} == {*verdicts} - passing - UNACCEPTED
    assert {case.verdict for case in comparison.unaccepted} == {*verdicts} & UNACCEPTED


@pytest.mark.parametrize(
    ("ran", "expected", "verdicts", "code"),
    [
        ([LORA], None, {LORA: "regressed", FULL: "missing"}, 1),
        ([FULL], None, {LORA: "missing", FULL: "unchanged"}, 3),
        ([LORA], [], {LORA: "regressed"}, 1),
        ([FULL], [FULL], {FULL: "unchanged"}, 0),
        ([], [], {}, 3),
    ],
)
def test_all_that_was_expected_or_ran_is_judged(ran, expected, verdicts, code):
    old = observe_all([make_record(LORA, {"forward_flops": 1}), make_record(FULL)])
    records = {LORA: make_record(LORA, {"forward_flops": 2}), FULL: make_record(FULL)}
    run = msgspec.structs.replace(make_run(), cases={name: records[name] for name in ran})
    comparison = compare_runs(old, run, expected=expected)
    assert {case.id: case.verdict for case in comparison.cases} == verdicts
    assert comparison.exit_code == code
    failing = [finding.cases for finding in comparison.findings if finding.is_failing]
    assert failing == ([(LORA,)] if LORA in ran else [])
