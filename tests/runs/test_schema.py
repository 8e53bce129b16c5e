"""Records: ids, refusal of what does not fit, digests, finite numbers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from builders import (
    LORA,
    make_case,
    make_metric,
    make_record,
    make_run,
    repeating,
    trained,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.cases import Adaptation, Case
from peft_regress.errors import InputError
from peft_regress.metrics import Metric
from peft_regress.runs.schema import (
    Acceptance,
    Failure,
    Record,
    Run,
    Selection,
    canonical_digest,
    check_acceptance,
    check_consistent,
    check_finite,
    content_digest,
)


def test_id_has_the_rank_where_the_method_has_one() -> None:
    case = Case(task="shift", method="lora", architecture="resnet18", rank=4)
    assert case.id == "shift/lora-r4/resnet18"


def test_id_has_no_rank_where_the_method_has_none() -> None:
    assert Case(task="shift", method="full", architecture="resnet18").id == "shift/full/resnet18"


def test_adaptation_knows_no_task() -> None:
    first, second = make_case("shift/lora-r4/resnet18"), make_case("unseen/lora-r4/resnet18")
    assert (
        first.adaptation
        == second.adaptation
        == Adaptation(method="lora", architecture="resnet18", rank=4)
    )


@pytest.mark.parametrize("kind", [Case, Metric, Failure, Record, Run, Selection, Acceptance])
def test_records_cannot_be_changed(kind: type[msgspec.Struct]) -> None:
    assert kind.__struct_config__.frozen
    assert kind.__struct_config__.forbid_unknown_fields


def test_run_survives_the_round_trip() -> None:
    run = make_run(
        make_record(invariants={"identity": True, "merge": None}),
        make_record("shift/head/resnet18", status="error"),
        accepted=Acceptance(reason="r", date="2026-01-01", role="history", entry="Linux/0001_x"),
        selection=Selection(complete=False, narrowed_by=["-k x"], not_selected=["a/b/c"]),
    )
    assert msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(run))), Run) == run


def _metric(**changed: Any) -> dict[str, Any]:
    return {"value": 1, "unit": "count", "direction": "lower", "kind": "exact", **changed}


@pytest.mark.parametrize(
    "changed",
    [
        {"value": True},
        {"value": "1"},
        {"value": None},
        {"value": [1]},
        {"unit": "furlong"},
        {"direction": "sideways"},
        {"kind": "vague"},
        {"samples": 1.0},
        {"samples": [True]},
        {"samples": [None]},
        {"samples": [["1"]]},
        {"samples": [[[1.0]]]},
        {"extra": 1},
    ],
    ids=str,
)
def test_metric_that_does_not_fit_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(_metric(**changed), Metric)


def test_status_and_invariants_are_checked() -> None:
    record = msgspec.to_builtins(make_record())
    for wrong in ({"status": "fine"}, {"invariants": {"merge": 1}}, {"error": "text"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**record, **wrong}, Record)


def test_a_run_iterates_over_its_records() -> None:
    run = make_run()
    assert [record.case.id for record in run] == [LORA]


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_digest({"a": 1, "b": {"c": 2, "d": 3}}) == canonical_digest(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )


def test_digest_depends_on_the_order_of_a_list() -> None:
    assert canonical_digest([1, 2]) != canonical_digest([2, 1])


def test_content_digest_leaves_itself_out() -> None:
    run = make_run()
    signed = msgspec.structs.replace(run, content_digest="sha256:anything")
    assert content_digest(signed) == content_digest(run)


def test_content_digest_covers_the_acceptance() -> None:
    run = make_run()
    accepted = Acceptance(reason="r", date="d", role="baseline", entry="Linux/0001_x")
    promoted = msgspec.structs.replace(run, accepted=accepted)
    assert content_digest(promoted) != content_digest(run)


@settings(deadline=None, derandomize=True)
@given(st.integers(min_value=0, max_value=2**62), st.integers(min_value=0, max_value=2**62))
def test_content_digest_tells_any_two_numbers_apart(one: int, other: int) -> None:
    digests = {
        content_digest(make_run(make_record(metrics={"forward_flops": value})))
        for value in (one, other)
    }
    assert len(digests) == len({one, other})


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), float("-inf"), 1e101, 10**101, 10**400, -(10**400)],
    ids=["nan", "inf", "-inf", "1e101", "10**101", "10**400", "-10**400"],
)
def test_what_is_no_finite_number_is_refused(value: float) -> None:
    metrics = {"loss": Metric(value=value, unit="nat", direction="lower", kind="accuracy")}
    with pytest.raises(InputError, match=r"here: metric 'loss' is .*, not a finite number"):
        check_finite(metrics, "here")


@pytest.mark.parametrize("samples", [[0.1, float("nan")], [[0.1], [0.2, float("inf")]]], ids=str)
def test_a_sample_that_is_not_finite_is_refused(samples: list[Any]) -> None:
    metric = Metric(value=0.1, unit="nat", direction="same", kind="fingerprint", samples=samples)
    with pytest.raises(InputError, match="not a finite number"):
        check_finite({"first_losses": metric}, "here")


@pytest.mark.parametrize("name", ["forward_flops", "peak_bytes", "aten_ops", "step_seconds"])
def test_a_negative_amount_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="never negative"):
        check_finite({name: make_metric(name, -1)}, "here")


@pytest.mark.parametrize("more", [{"rates": [[]]}, {"test_items": 0}], ids=str)
def test_rates_of_no_step_and_no_test_items_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(make_record()) | more, Record)


def test_a_loss_may_be_negative() -> None:
    check_finite({"loss": make_metric("loss", [-0.5])}, "here")


def test_a_case_that_repeats_another_run_has_a_curve() -> None:
    check_consistent(repeating(trained()), "here")
    with pytest.raises(InputError, match="here: repeats '0001' without a curve"):
        check_consistent(repeating(make_record(), by="0001"), "here")


@pytest.mark.parametrize(
    ("record", "accepted", "problem"),
    [
        (repeating(trained()), {}, f"case {LORA} has no score of all seeds, so it cannot judge"),
        (repeating(trained()), {"role": "history"}, None),
        (make_record(), {"role": "history", "repeats": {LORA: "0001"}}, "confirms no case"),
        (make_record("a/b/c"), {"repeats": {LORA: "0001"}}, None),
        (
            make_record("a/b/c"),
            {"repeats": {LORA: "0001"}, "retired": [LORA]},
            f"case {LORA} cannot be retired by a run that has it",
        ),
    ],
)
def test_an_entry_judges_and_confirms_what_all_seeds_trained(
    record: Record, accepted: dict[str, Any], problem: str | None
) -> None:
    date = "2026-01-01T00:00:00+00:00"
    run = make_run(
        record,
        accepted=Acceptance(
            **{"reason": "r", "date": date, "role": "baseline", **accepted}, entry="Linux/0001_x"
        ),
    )
    if problem is None:
        check_acceptance(run)
    else:
        with pytest.raises(InputError, match=problem):
            check_acceptance(run)
