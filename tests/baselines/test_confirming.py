"""What an entry holds of a run that repeats stored trainings, and what judges afterwards."""

import builders
import msgspec
import pytest
from builders import (
    ENVIRONMENT,
    FULL,
    LORA,
    OTHER_MACHINE,
    compare,
    curve,
    make_metric,
    make_run,
    referee,
    repeating,
    trained,
)
from msgspec import UNSET

from peft_regress.baselines.current import read_contents
from peft_regress.baselines.history import read_entries, select_moves
from peft_regress.baselines.references import read_references
from peft_regress.baselines.storage import acceptance_of
from peft_regress.errors import InputError
from peft_regress.project.budgets import Bound
from peft_regress.project.fine_tune import Budget
from peft_regress.report import verdict_text
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Defect

FIRST, SECOND, THIRD = "0001_peft-0.18.1", "0002_peft-0.19.0", "0003_peft-0.19.0"
NEWER = {**ENVIRONMENT, "peft": "0.19.0"}
AGAIN = [repeating(trained(name)) for name in (LORA, FULL)]


def store(root, *records, **how):
    """Accept a run of these records, made with a newer peft, and read its entry."""
    return read_run_file(builders.store(root, *records, **{"environment": NEWER, **how}))


@pytest.fixture
def root(tmp_path):
    """A storage with one entry, of two cases that trained in full."""
    root = tmp_path / "baselines"
    store(root, trained(LORA), trained(FULL), environment=ENVIRONMENT)
    return root


def test_a_run_that_shows_nothing_new_is_one_line_for_each_case(root):
    before = read_references(root)
    assert list(store(root, *AGAIN, history=True, reason="for history").run) == AGAIN
    assert read_references(root) == before
    entry = store(root, *AGAIN)
    assert (entry.run.cases, entry.document["benchmarks"]) == ({}, [])
    assert acceptance_of(entry).repeats == {LORA: FIRST, FULL: FIRST}
    after = read_references(root, drift=True)
    for name, old in before.items():
        assert (after[name].record, after[name].run_name) == (old.record, FIRST)
        assert after[name].environment == ENVIRONMENT
        assert after[name].confirmed == (THIRD, NEWER)
    known = read_entries(root, [])[-1].references[FULL]
    assert known.confirmed is None, "what confirms a case is known to the entries after it"
    text = verdict_text(compare(after, make_run(*AGAIN)))
    assert f"{FIRST}, confirmed by {THIRD}" in " ".join(text.split())


def cost(record):
    return msgspec.structs.replace(
        record, metrics={**record.metrics, "peak_bytes": make_metric("peak_bytes", 130_000_000)}
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"metrics": cost(AGAIN[0]).metrics},
        {"invariants": {"frozen_unchanged": False}},
        {"invariants": {"unmerge_restores_base": True}},
        {"budget": Budget(peak="1 GiB")},
        {"bounds": {"loss": Bound(bound=9.0, reason="noise")}},
        {"own_code": "sha256:0"},
    ],
    ids=["cost", "broken invariant", "new invariant", "budget", "bound", "own code"],
)
def test_a_case_that_shows_something_new_is_held_with_the_scores_of_what_it_repeats(root, changed):
    changed = msgspec.structs.replace(AGAIN[0], **changed)
    entry = store(root, changed, AGAIN[1])
    assert acceptance_of(entry).repeats == {FULL: FIRST}
    (held,) = entry.run
    assert held.metrics == {**trained(LORA).metrics, **changed.metrics}
    assert not held.is_repeat
    timed = entry.document["benchmarks"]
    assert [one["extra_info"]["peft_regress"]["case_id"] for one in timed] == [LORA]
    reference = read_references(root)[LORA]
    assert (reference.run_name, reference.confirmed) == (SECOND, None)
    # It is repeated itself from now on.
    again = store(root, repeating(held, by=SECOND), reason="again")
    assert acceptance_of(again).repeats == {LORA: SECOND}


def broken(record, defect):
    return msgspec.structs.replace(
        record,
        invariants={"merge_equals_unmerged": False},
        defects=UNSET if defect is None else {"merge_equals_unmerged": defect},
    )


def test_a_known_defect_that_is_told_otherwise_is_held(root):
    store(root, broken(trained(LORA), None), reason="a known defect")
    for size, is_held in ((0.3, True), (0.3, False), (1e-5, True), (1e-5, False)):
        again = broken(AGAIN[0], Defect(size=size))
        assert (LORA in store(root, again, reason=f"{size} {is_held}").run.cases) is is_held


@pytest.mark.parametrize(
    ("record", "where"),
    [
        (repeating(trained(LORA, curve=curve(3)), by="0009"), {}),
        (repeating(trained("a/b/c"), by="0009"), {}),
        (repeating(trained(LORA, definition="sha256:other"), by="0009"), {}),
        (repeating(trained(LORA), by="0009"), {"machine": OTHER_MACHINE}),
    ],
    ids=["curve", "case", "definition", "machine"],
)
def test_what_repeats_nothing_stored_is_refused(root, record, where):
    message = r"repeats 0009, which this storage does not hold.* Measure it with --regress-full"
    with pytest.raises(InputError, match=message):
        store(root, record, **where)
    assert len(read_contents(root).links) == 1
    assert store(root, record, history=True, **where).run.cases == {record.case.id: record}


def test_a_case_that_was_retired_or_judged_anew_is_confirmed_no_more(root):
    store(root, *AGAIN)
    store(root, trained(LORA, curve=curve(2)), retire=[FULL], reason="new")
    references = read_references(root)
    assert {name: one.confirmed for name, one in references.items()} == {LORA: None}


def test_another_kind_of_machine_confirms_a_case_by_its_referee(root):
    store(root, trained(LORA, referee=referee()), reason="with its referee")
    there = trained(LORA, curve=curve(0, by=1e-6), referee=referee())
    entry = store(root, repeating(there, by=SECOND), machine=OTHER_MACHINE, reason="elsewhere")
    assert (entry.run.cases, acceptance_of(entry).repeats) == ({}, {LORA: SECOND})
    assert read_references(root)[LORA].confirmed == (THIRD, NEWER)
    late = msgspec.structs.replace(there, referee=referee(9))
    with pytest.raises(InputError, match="repeats 0002_peft"):
        store(root, repeating(late, by=SECOND), machine=OTHER_MACHINE, reason="late")


def test_a_history_goes_on_across_what_an_entry_confirms(root):
    store(root, *AGAIN)
    store(root, cost(AGAIN[0]), reason="cost")
    moves = select_moves(read_entries(root, []))
    assert {(move.case, move.before, move.entry) for move in moves.found} == {(LORA, 1, 2)}
    first, *others = [one.metrics["accuracy"] for one in moves.cases[LORA].values()]
    assert others == [first, first]
