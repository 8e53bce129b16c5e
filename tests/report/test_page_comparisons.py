"""What the page is told of the gate: the verdict on the newest entry, and pairs of entries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from builders import FULL, LEDGER, LORA, UNSEEN_LORA, VALUES, make_record, make_run, split_by
from test_page_data import entry

from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import observations_of
from peft_regress.report import verdict_text
from peft_regress.report.page import comparisons
from peft_regress.report.page.comparisons import chosen_pairs
from peft_regress.report.page.data import page_data
from peft_regress.runs.schema import Selection

if TYPE_CHECKING:
    from peft_regress.gate.comparison import Comparison


def records(*cases: str, **values: Any) -> list[Any]:
    return [make_record(case, {**split_by(LEDGER), **values}, ledger=LEDGER) for case in cases]


def of_entries(old: Any, new: Any, **how: Any) -> Comparison:
    sides = (observations_of(one.run, one.name) for one in (old, new))
    return judge(*sides, **how)


def page_of(*entries: Any, newest: Comparison | None = None) -> dict[str, Any]:
    data = page_data(entries, lambda asked: asked.run, newest=newest)
    return json.loads(json.dumps(data, allow_nan=False))


def texts_of(data: dict[str, Any], numbers: list[int]) -> list[str]:
    return [data["comparisons"]["texts"][number] for number in numbers]


ENTRIES = (
    entry(0, *records(LORA, FULL)),
    entry(1, *records(LORA, FULL, forward_flops=2 * VALUES["forward_flops"])),
    entry(2, *records(UNSEEN_LORA)),
)


def test_every_pair_with_a_common_case_is_judged_both_ways() -> None:
    data = page_of(*ENTRIES)
    pairs = {(pair["old"], pair["new"]): pair for pair in data["comparisons"]["pairs"]}
    assert pairs.keys() == {(0, 1), (1, 0)}
    assert (pairs[0, 1]["exit_code"], pairs[0, 1]["counts"]) == (1, {"regressed": 2})
    assert (pairs[1, 0]["exit_code"], pairs[1, 0]["counts"]) == (0, {"improved": 2})
    assert data["comparisons"]["names"] == ["0000_peft", "0001_peft", "0002_peft"]


def test_a_pair_says_what_the_terminal_says() -> None:
    data = page_of(*ENTRIES)
    (pair,) = (pair for pair in data["comparisons"]["pairs"] if pair["new"] == 1)
    text = " ".join(verdict_text(of_entries(*ENTRIES[:2])).split())
    numbers = [pair["outcome"], *pair["setting"]]
    for finding in pair["findings"]:
        numbers += [finding["headline"], *finding["about"]]
        numbers += [number for row in finding["rows"] for number in row]
    shown = texts_of(data, numbers)
    assert len(shown) >= 18
    for line in shown:
        assert " ".join(line.split()) in text
    examples = [finding["example"] for finding in pair["findings"]]
    assert sorted(texts_of(data, [case for case, _ in examples])) == [FULL, LORA]
    for _, lines in examples:
        assert texts_of(data, lines)[0].startswith("forward_flops: ")


def test_a_pair_with_a_narrowed_run_is_incomplete() -> None:
    narrowed = Selection(complete=False, narrowed_by=["-k lora"], not_selected=[UNSEEN_LORA])
    data = page_of(entry(0, *records(LORA)), entry(1, *records(LORA), selection=narrowed))
    codes = {pair["new"]: pair["exit_code"] for pair in data["comparisons"]["pairs"]}
    assert codes == {0: 0, 1: 3}


def test_a_case_has_its_verdict_where_the_newest_entry_shows_it() -> None:
    data = page_of(*ENTRIES[:2], newest=of_entries(*ENTRIES[:2]))
    assert {case["id"]: case["verdict"] for case in data["cases"]} == {
        FULL: "regressed",
        LORA: "regressed",
    }
    # The history is not what the page shows as present.
    old = entry(2, *records(LORA, forward_flops=1), role="history")
    data = page_of(*ENTRIES[:2], old, newest=of_entries(ENTRIES[1], old))
    assert not any("verdict" in case for case in data["cases"])
    assert "verdict" not in page_of(*ENTRIES)["cases"][0]


def test_the_newest_run_comes_with_what_to_type_and_an_entry_without() -> None:
    run = entry(1, *records(LORA, FULL, forward_flops=10**12), role="run")
    data = page_of(ENTRIES[0], run, newest=of_entries(ENTRIES[0], run))
    verdict = data["comparisons"]["verdict"]
    assert (verdict["old"], verdict["new"]) == (None, 1)
    commands = texts_of(data, [words for _, words in verdict["steps"]])
    assert any(command.startswith("peft-regress accept ") for command in commands)
    assert texts_of(data, [verdict["command"]])[0].startswith("peft-regress compare baselines")
    accepted = page_of(*ENTRIES[:2], newest=of_entries(*ENTRIES[:2]))["comparisons"]["verdict"]
    assert accepted.keys().isdisjoint({"steps", "command"})


def test_an_error_in_both_is_a_known_defect() -> None:
    broken = [make_record(LORA, status="error")]
    entries = entry(0, *broken), entry(1, *broken)
    data = page_of(*entries, newest=of_entries(*entries))
    ((what, ids),) = data["comparisons"]["verdict"]["defects"]
    assert texts_of(data, ids) == [LORA]
    assert texts_of(data, [what])[0].startswith("error (ValueError")


ORDERS = {"peft": [1, 0, 2, 3], "date": [0, 1, 2, 3]}
FOUR = [entry(number, *records(LORA)) for number in range(4)]


def test_all_pairs_are_chosen_if_there_is_room() -> None:
    pairs = chosen_pairs(FOUR, ORDERS)
    assert len(pairs) == len(set(pairs)) == 12
    assert pairs[0] == (2, 3)


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (1, [(2, 3)]),
        (3, [(2, 3), (0, 2), (1, 2)]),
        (6, [(2, 3), (0, 2), (1, 2), (0, 1), (1, 3), (1, 0)]),
    ],
)
def test_neighbours_and_the_newest_come_first(monkeypatch, room, expected) -> None:
    monkeypatch.setattr(comparisons, "_MOST_JUDGED", room)
    assert chosen_pairs(FOUR, ORDERS)[: len(expected)] == expected
    assert len(chosen_pairs(FOUR, ORDERS)) == room


def test_of_many_entries_the_newest_are_judged(monkeypatch) -> None:
    monkeypatch.setattr(comparisons, "_EVERY_PAIR", 3)
    monkeypatch.setattr(comparisons, "_MOST_ENTRIES", 2)
    assert chosen_pairs(FOUR, {"date": [0, 1, 2, 3]}) == [(2, 3)]


def test_neighbours_share_a_case() -> None:
    mixed = [entry(0, *records(LORA)), entry(1, *records(FULL)), entry(2, *records(LORA))]
    assert chosen_pairs(mixed, {"date": [0, 1, 2]}) == [(0, 2), (2, 0)]


def test_a_run_may_hold_cases_that_only_it_has() -> None:
    run = entry(0, make_record(LORA), role="run")
    newest = judge({}, observations_of(make_run(make_record(LORA)), "run.json"))
    data = page_of(run, newest=newest)
    assert data["comparisons"]["verdict"]["exit_code"] == 3
    assert "command" not in data["comparisons"]["verdict"]
    assert data["cases"][0]["verdict"] == "new"
