"""Which pairs of entries a page shows the verdicts of."""

from __future__ import annotations

import pytest
from builders import FULL, LORA, UNSEEN_LORA, make_record
from page_world import make_entry

from peft_regress.cli import newest
from peft_regress.cli.newest import chosen_pairs, judged_pairs
from peft_regress.runs.schema import Selection

ORDERS = {"peft": [1, 0, 2, 3], "date": [0, 1, 2, 3]}
FOUR = [make_entry(number, make_record(LORA)) for number in range(4)]


def judged(*entries):
    orders = {"date": list(range(len(entries)))}
    return judged_pairs(entries, orders, whole_run=lambda entry: entry.run, devices=())


def test_every_pair_with_a_common_case_is_judged_both_ways():
    slower = make_record(LORA, {"forward_flops": 2})
    entries = (
        make_entry(0, make_record(LORA, {"forward_flops": 1})),
        make_entry(1, slower),
        make_entry(2, make_record(UNSEEN_LORA)),
    )
    found = {pair: one.counts for pair, one in judged(*entries).items()}
    assert found == {(0, 1): {"regressed": 1}, (1, 0): {"improved": 1}}


def test_a_pair_with_a_narrowed_run_is_incomplete():
    narrowed = Selection(complete=False, narrowed_by=["-k lora"], not_selected=[UNSEEN_LORA])
    part = make_entry(1, make_record(LORA), selection=narrowed)
    found = judged(make_entry(0, make_record(LORA)), part)
    assert {new: one.exit_code for (_, new), one in found.items()} == {0: 0, 1: 3}


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (1, [(2, 3)]),
        (3, [(2, 3), (0, 2), (1, 2)]),
        (6, [(2, 3), (0, 2), (1, 2), (0, 1), (1, 3), (1, 0)]),
    ],
)
def test_neighbours_and_the_newest_come_first(monkeypatch, room, expected):
    assert len(set(chosen_pairs(FOUR, ORDERS))) == 12
    monkeypatch.setattr(newest, "_MOST_JUDGED", room)
    assert chosen_pairs(FOUR, ORDERS)[: len(expected)] == expected
    assert len(chosen_pairs(FOUR, ORDERS)) == room


def test_of_many_entries_the_newest_are_judged(monkeypatch):
    monkeypatch.setattr(newest, "_EVERY_PAIR", 3)
    monkeypatch.setattr(newest, "_MOST_ENTRIES", 2)
    assert chosen_pairs(FOUR, {"date": [0, 1, 2, 3]}) == [(2, 3)]


def test_neighbours_share_a_case():
    mixed = [
        make_entry(number, make_record(case)) for number, case in enumerate((LORA, FULL, LORA))
    ]
    assert chosen_pairs(mixed, {"date": [0, 1, 2]}) == [(0, 2), (2, 0)]
