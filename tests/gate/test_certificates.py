"""A case that was not trained is judged by what it has, and by whose training it repeats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from builders import (
    COMPUTATION,
    FACTS,
    FULL,
    LORA,
    VALUES,
    certified,
    compare,
    make_metric,
    make_record,
    observe,
    trained,
)

from peft_regress.budgets import Budget
from peft_regress.gate import judge_case
from peft_regress.gate.certificates import repeatable, trained_by
from peft_regress.gate.drift import Origin
from peft_regress.metrics import KNOWN
from peft_regress.runs.limits import limits_of
from peft_regress.runs.schema import Computation, OwnBound

if TYPE_CHECKING:
    from peft_regress.gate.verdicts import CaseVerdict
    from peft_regress.runs.schema import Record


def judged(old: Record, new: Record, **how: Any) -> CaseVerdict:
    sides = (observe(one, known=KNOWN) for one in (old, new))
    return judge_case(LORA, *sides, **how)


def said(case: CaseVerdict) -> tuple[str, list[tuple[str, Any]], list[str]]:
    """Return the verdict, the reasons, and the kinds of the remarks."""
    reasons = [(one.metric, one.verdict) for one in case.reasons]
    return case.verdict, reasons, [one.kind for one in case.remarks]


SAME = ("unchanged", [], ["same computation"])
UNKNOWN = ("incomparable", [("computation", "incomparable")], [])
UNLIKE = {"graph": "sha256:other"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (trained(), trained(), ("unchanged", [], [])),
        (trained(), certified(trained()), SAME),
        (trained(), certified(trained(), by="another run"), SAME),
        (certified(trained()), certified(trained()), SAME),
        (trained(), certified(trained(), **UNLIKE), UNKNOWN),
        (trained(), certified(trained(), state="sha256:other"), UNKNOWN),
        (trained(), certified(trained(), torch="2.14.0"), UNKNOWN),
        (make_record(invariants=FACTS), certified(trained()), UNKNOWN),
        (certified(trained()), trained(), UNKNOWN),
        (certified(trained()), make_record(invariants=FACTS), UNKNOWN),
        (certified(trained()), certified(trained(), **UNLIKE), UNKNOWN),
    ],
)
def test_each_pair_of_sides(old: Record, new: Record, expected: Any) -> None:
    assert said(judged(old, new)) == expected


def test_a_failure_is_what_it_is_beside_a_certificate() -> None:
    for status in ("error", "unsupported"):
        broken = make_record(status=status)
        assert said(judged(certified(trained()), broken))[0] == "newly_failing"
        verdict, reasons, _ = said(judged(broken, certified(trained())))
        # Nobody saw it train to its end here.
        assert verdict == "incomparable"
        assert reasons == [("status", "fixed"), ("computation", "incomparable")]


def test_another_definition_is_the_only_reason() -> None:
    new = certified(trained(definition="sha256:another"))
    assert said(judged(trained(), new)) == (
        "incomparable",
        [("definition", "incomparable")],
        [],
    )


@pytest.mark.parametrize("digest", [{}, UNLIKE])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("forward_flops", 9_000_000_000),
        ("peak_bytes", 130_000_000),
        ("aten_ops", 901),
        ("trainable_params", 1),
        ("first_losses", [[2.3, 2.2, 2.9]]),
        ("first_losses", [[2.4, 2.2, 2.1]]),
    ],
)
def test_what_was_measured_is_judged_as_ever(digest: dict[str, str], name: str, value: Any) -> None:
    new = certified(trained(), **digest)
    changed = msgspec.structs.replace(new, metrics={**new.metrics, name: make_metric(name, value)})
    for old in (trained(), certified(trained())):
        case = judged(old, changed)
        assert case.verdict == "regressed"
        assert name in {one.metric for one in case.reasons}


@pytest.mark.parametrize("name", [*certified(trained()).metrics])
def test_no_other_metric_may_be_absent(name: str) -> None:
    new = certified(trained())
    kept = {key: metric for key, metric in new.metrics.items() if key != name}
    case = judged(trained(), msgspec.structs.replace(new, metrics=kept))
    absent = {one.metric for one in case.reasons if one.new is None}
    assert (case.verdict, absent) == ("regressed", {name})


@pytest.mark.parametrize("samples", [[[]], [], None])
def test_losses_without_a_common_step_are_incomparable(samples: Any) -> None:
    new = certified(trained())
    empty = msgspec.structs.replace(new.metrics["first_losses"], samples=samples)
    case = judged(
        trained(), msgspec.structs.replace(new, metrics={**new.metrics, "first_losses": empty})
    )
    assert case.verdict == "incomparable"


def test_the_updates_of_an_optimizer_are_judged_as_ever() -> None:
    with_updates = {**VALUES, "optimizer_updates": [[1.0, 2.0], [1.0, 2.0]]}
    old = trained(metrics=with_updates)
    assert said(judged(old, certified(old))) == SAME
    other = certified(
        trained(metrics={**with_updates, "optimizer_updates": [[1.0, 2.0], [1.0, 3]]})
    )
    for new in (other, certified(trained())):
        assert said(judged(old, new))[:2] == ("regressed", [("optimizer_updates", "regressed")])


def test_the_losses_beyond_those_traced_are_not_compared() -> None:
    other = [[2.3, 2.2, 2.1, 9.0], [9.0], [9.0]]
    old = trained(metrics={**VALUES, "first_losses": other})
    assert said(judged(old, certified(trained()))) == SAME


def test_invariants_that_need_no_training_are_judged() -> None:
    new = certified(trained())
    for facts in ({}, {"merge_equals_unmerged": None}, {"merge_equals_unmerged": False}):
        case = judged(trained(), msgspec.structs.replace(new, invariants=facts))
        assert [one.metric for one in case.reasons] == ["invariant merge_equals_unmerged"]
        assert case.verdict == "regressed"


def test_a_training_that_breaks_an_invariant_fails_whatever_it_is_compared_with() -> None:
    broken = trained(invariants={**FACTS, "frozen_unchanged": False})
    case = judged(certified(trained()), broken)
    assert ("invariant frozen_unchanged", "regressed") in said(case)[1]


OWN = {"profiled_on": "fake tensors"}
IOU = msgspec.structs.replace(make_metric("forward_flops", 3), direction="higher")


def test_a_metric_of_one_s_own_needs_a_training() -> None:
    old = trained(metrics={**VALUES, "mean_iou": IOU}, **OWN)
    assert said(judged(old, certified(old))) == SAME
    assert said(judged(certified(old), old)) == UNKNOWN
    # A built-in case has none, so an unknown one that is gone is a cost.
    old = trained(metrics={**VALUES, "old_flops": IOU})
    assert judged(old, certified(old)).verdict == "regressed"


def test_a_budget_on_the_score_is_not_judged() -> None:
    limits = limits_of(Budget(score=0.99, peak="1 MiB"))
    case = judged(trained(budget=limits), certified(trained(budget=limits)))
    assert [one.metric for one in case.reasons] == ["budget peak"]
    subjects = [one.subject for one in case.remarks if one.kind == "not judged"]
    assert subjects == ["budget score"]


def test_a_looser_bound_on_the_accuracy_is_named() -> None:
    bounds = {"accuracy": OwnBound(bound=0.5, reason="noisy")}
    new = certified(trained(bounds=bounds))
    kinds = {one.kind: one.subject for one in judged(trained(), new).remarks}
    assert kinds == {"looser bound": "accuracy", "same computation": "training"}


def test_the_losses_that_were_traced_may_drift() -> None:
    slow = make_metric("first_losses", [[2.3 - 5e-6, 2.2, 2.1, 2.0]] * 3)
    now = trained(metrics={**VALUES, "first_losses": [[2.3, 2.2, 2.1, 2.0]] * 3})
    for origin, verdict in ((slow, "unchanged"), (None, "regressed")):
        metric = origin or make_metric("first_losses", [[2.3 - 5e-5, 2.2, 2.1, 2.0]] * 3)
        old = observe(now, known=KNOWN)
        object.__setattr__(old, "drift_origins", {"first_losses": Origin(metric, "0000")})
        assert judge_case(LORA, old, observe(certified(now), known=KNOWN)).verdict == verdict


def test_a_case_as_accurate_as_before_still_beats_another() -> None:
    rival = "shift/lora-r16/resnet18"
    small, large = (
        trained(name, {**VALUES, "accuracy": [share] * 3, "peak_bytes": peak})
        for name, share, peak in ((LORA, 0.8, 100), (rival, 0.9, 200))
    )
    costlier = trained(LORA, {**VALUES, "accuracy": [0.8] * 3, "peak_bytes": 201})
    full = compare([small, large], [costlier, large])
    quick = compare([small, large], [certified(costlier), certified(large)])
    assert full.fronts == quick.fronts
    assert [one.beaten_by for one in quick.fronts] == [rival]
    assert not compare([small, large], [certified(costlier), certified(large, **UNLIKE)]).fronts


def test_cases_without_a_certificate_are_one_finding() -> None:
    old = [trained(name) for name in (LORA, FULL)]
    comparison = compare(old, [certified(one, **UNLIKE) for one in old])
    (finding,) = comparison.findings
    assert (finding.cause.strand, finding.cause.what) == ("coverage", "computation")
    assert (comparison.exit_code, comparison.same_computation) == (3, frozenset())
    assert comparison.has_untrained
    comparison = compare(old, map(certified, old))
    assert comparison.same_computation == {LORA, FULL}
    assert comparison.exit_code == 0


def test_a_certificate_alone_judges_no_new_case() -> None:
    case = judge_case(LORA, None, observe(certified(trained())))
    assert (case.verdict, case.remarks) == ("new", ())


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        (trained(), COMPUTATION),
        (make_record(), None),
        (certified(trained()), None),
        (make_record(status="error", computation=COMPUTATION), None),
        (trained(invariants={"frozen_unchanged": False}), None),
        (trained(invariants={"merge_equals_unmerged": False}), COMPUTATION),
    ],
)
def test_only_a_sound_training_need_not_be_repeated(
    old: Record, expected: Computation | None
) -> None:
    assert repeatable(observe(old)) == expected
    assert repeatable(None) is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [("0003_peft-0.21.2", "0003_peft-0.21.2"), ("/home/me/a run.json", "a run.json"), ("s/", "s")],
)
def test_a_record_names_no_folder_of_the_machine(name: str, shown: str) -> None:
    assert trained_by(observe(trained(), run_name=name)) == shown
