"""Which pairs of entries a page shows the verdicts of."""

from builders import FULL, LORA, UNSEEN_LORA, make_record
from page_world import make_entry

from peft_regress.cli import report
from peft_regress.cli.report import chosen_pairs, judged_pairs
from peft_regress.gate.comparison import Invocation
from peft_regress.runs.schema import Selection

FOUR = [make_entry(number, make_record(LORA)) for number in range(4)]


def judged(*entries):
    return judged_pairs(entries, Invocation())


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


def test_of_many_entries_neighbours_and_all_pairs_of_the_newest_are_judged(monkeypatch):
    assert len(chosen_pairs(FOUR)) == 12
    monkeypatch.setattr(report, "_EVERY_PAIR", 2)
    assert chosen_pairs(FOUR) == [(0, 1), (0, 3), (1, 2), (1, 3), (2, 3), (3, 2)]
    monkeypatch.setattr(report, "_MOST_ENTRIES", 2)
    assert chosen_pairs(FOUR) == [(2, 3), (3, 2)]


def test_neighbours_share_a_case():
    mixed = [
        make_entry(number, make_record(case)) for number, case in enumerate((LORA, FULL, LORA))
    ]
    assert chosen_pairs(mixed) == [(0, 2), (2, 0)]
