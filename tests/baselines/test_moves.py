"""What moved in a history: only what the gate would report, between the right entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import LORA, make_record, make_run

from peft_regress.baselines.history import moved_histories, read_entries, select_moves
from peft_regress.baselines.lines import Entry
from peft_regress.errors import AbsentError
from peft_regress.gate.judge import judge_case
from peft_regress.gate.verdicts import observations_of

ROOT = Path(__file__).parents[2]
PEFT = {"peft": "0.18.1", "torch": "2.13.0"}
NEWER_TORCH = {**PEFT, "torch": "2.14.0"}


def entry(number: int, *records: Any, environment: dict[str, str] | None = None) -> Entry:
    return Entry(
        name=f"{number:04d}_peft",
        date=f"2026-01-{1 + number:02d}T00:00:00+00:00",
        role="baseline",
        run=make_run(*records, environment=environment or PEFT),
    )


def entries_of(name: str, *values: Any, environments: Any = ()) -> list[Entry]:
    """Return an entry for each value of a metric."""
    packages = dict(enumerate(environments))
    return [
        entry(number, make_record(metrics={name: value}), environment=packages.get(number))
        for number, value in enumerate(values)
    ]


def moved(entries: list[Entry], **how: Any) -> list[tuple[str, str, str]]:
    """Return (metric, entry, way) of each move."""
    found = select_moves(entries, **how).found
    return [(move.metric, move.entry.name, move.way) for move in found]


def test_a_cost_moves_where_it_changes_and_moves_back() -> None:
    entries = entries_of("forward_flops", 100, 100, 150, 150, 100)
    worse, better = select_moves(entries).found
    assert (worse.before.name, worse.entry.name, worse.way) == ("0001_peft", "0002_peft", "worse")
    assert (worse.old, worse.new, worse.change) == (100, 150, 0.5)
    assert (better.entry.name, better.way) == ("0004_peft", "better")
    (move,) = select_moves(entries_of("projection_flops", 0, 5)).found
    assert (move.old, move.new, move.change) == (0, 5, None)


def test_an_entry_that_lacks_the_case_is_passed_over() -> None:
    first, last = (make_record(metrics={"forward_flops": value}) for value in (100, 150))
    other = make_record("shift/full/resnet18", {"forward_flops": 7})
    (move,) = select_moves([entry(0, first), entry(1, other), entry(2, last)]).found
    assert (move.before.name, move.entry.name) == ("0000_peft", "0002_peft")


def test_a_case_that_is_defined_anew_moves_in_nothing_and_is_named() -> None:
    records = [
        make_record(metrics={"forward_flops": value}, invariants={"a": bool(number)},
                    definition=f"sha256:{number}")
        for number, value in enumerate((100, 150))
    ]  # fmt: skip
    found = select_moves([entry(number, one) for number, one in enumerate(records)])
    assert not found.found
    assert [(one.case, one.entry.name) for one in found.redefined] == [(LORA, "0001_peft")]


def test_an_invariant_moves_where_it_stops_to_hold_or_to_be_checked() -> None:
    values = (True, None, True, False, None, True)
    entries = [
        entry(number, make_record(invariants={"merge_equals_unmerged": value}))
        for number, value in enumerate(values)
    ]
    name = "invariant merge_equals_unmerged"
    assert moved(entries) == [(name, f"000{at}_peft", "worse") for at in (1, 3, 4)]


def test_a_metric_that_is_no_longer_measured_moves_and_so_does_an_added_cost() -> None:
    records = [make_record(metrics={"forward_flops": 1, **more})
               for more in ({}, {"projection_flops": 5, "accuracy": [0.5] * 3}, {})]  # fmt: skip
    found = select_moves([entry(n, one) for n, one in enumerate(records)]).found
    assert [(one.metric, one.entry.name, one.old, one.new, one.way) for one in found] == [
        ("projection_flops", "0001_peft", None, 5, "worse"),
        ("projection_flops", "0002_peft", 5, None, "worse"),
        ("accuracy", "0002_peft", 0.5, None, "worse"),
    ]


def test_what_moved_in_this_repository_is_what_the_gate_says_of_neighbours() -> None:
    entries = read_entries(ROOT / "baselines", ())
    judged, last = set(), {}
    for one in entries:
        for case, new in observations_of(one.run, one.name).items():
            verdict = judge_case(case, last.get(case), new)
            judged |= {
                (case, reason.metric, last[case].run_name, one.name, reason.verdict)
                for reason in verdict.reasons
                if reason.verdict not in {"incomparable", "known_defect", "new"}
            }
            last[case] = new
    found = {
        (move.case, move.metric, move.before.name, move.entry.name, move.way)
        for move in select_moves(entries).found
    }
    ways = {"regressed": "worse", "newly_failing": "worse", "improved": "better", "fixed": "better"}
    assert found == {(*reason, ways[verdict]) for *reason, verdict in judged}


@pytest.mark.parametrize("status", ["error", "unsupported"])
def test_a_status_moves_too(status: str) -> None:
    failed = make_record(status=status)
    entries = [entry(0, make_record()), entry(1, failed), entry(2, make_record())]
    assert moved(entries, metric="status") == [
        ("status", "0001_peft", "worse"),
        ("status", "0002_peft", "better"),
    ]


def test_globs_select_cases_metrics_and_invariants() -> None:
    first = make_record(metrics={"forward_flops": 1, "backward_flops": 1}, invariants={"a": True})
    last = make_record(metrics={"forward_flops": 2, "backward_flops": 2}, invariants={"a": False})
    entries = [entry(0, first), entry(1, last)]
    assert [name for name, *_ in moved(entries)] == [
        "forward_flops",
        "backward_flops",
        "invariant a",
    ]
    assert [name for name, *_ in moved(entries, metric="inv*")] == ["invariant a"]
    with pytest.raises(AbsentError, match="matches none of the metrics"):
        select_moves(entries, metric="none")
    with pytest.raises(AbsentError, match="matches none of the 1 cases"):
        select_moves(entries, case="none/*")
    lines = [line.metric for case in moved_histories(select_moves(entries)) for line in case.lines]
    assert lines == ["forward_flops", "backward_flops"], "an invariant has none"
