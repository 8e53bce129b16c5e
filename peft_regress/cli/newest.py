"""The verdicts that a page shows: on the newest of some entries and runs, and on their pairs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from peft_regress.baselines.lines import Entry
from peft_regress.baselines.references import (
    expected_cases,
    is_complete,
    read_references,
    read_references_before,
)
from peft_regress.catalogue.matrix import built_in_matrices
from peft_regress.catalogue.own_cases import device_classes, usual_matrix, usual_storage
from peft_regress.devices import DeviceClass
from peft_regress.gate.comparison import Comparison, Invocation, narrow
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.runs.schema import Run

Pair = tuple[int, int]
"""The indices of the entries OLD and NEW."""

_MOST_JUDGED: Final = 12_000
"""Cases of all judged pairs of entries together: they take 3 s at most."""
_EVERY_PAIR: Final = 24
"""Up to so many entries, every pair is judged that there is room for."""
_MOST_ENTRIES: Final = 10
"""Of more entries, so many are judged: the ledgers of each must be read."""


def judge_newest(
    baselines: Path, entries: Sequence[Entry], whole_run: Callable[[Entry], Run], cases: str
) -> tuple[int, Comparison] | None:
    """Judge the last of `entries` that something judges; return its index, and the comparison.

    A run that was named is always judged, by the storage, even if it holds no case. An entry is
    judged by what the storage held before it; entries of the usual matrix come first. None if each
    entry is the first with its cases. `whole_run` reads an entry with its ledgers. `cases` is a
    glob; it narrows the verdict as `compare --only` does. Expected are the stored cases of the
    matrix that most cases of the run belong to, as in `compare --stored-only`.
    """
    last = len(entries) - 1
    if entries[last].role == "run":
        references = read_references(baselines, drift=True)
        return last, _judge(baselines, entries[last], whole_run(entries[last]), cases, references)
    held = [index for index in reversed(range(len(entries))) if entries[index].run.cases]
    usual = [index for index in held if _matrix_of(entries[index].run) == usual_matrix()]
    for index in dict.fromkeys((*usual, *held)):
        later = {path for one in entries[index:] if (path := one.path)}
        references = read_references_before(baselines, later)
        if not entries[index].run.cases.keys().isdisjoint(references):
            whole = whole_run(entries[index])
            return index, _judge(baselines, entries[index], whole, cases, references)
    return None


def _judge(
    baselines: Path,
    newest: Entry,
    whole: Run,
    cases: str,
    references: Mapping[str, Observation],
) -> Comparison:
    matrix = _matrix_of(whole)
    expected = expected_cases(references, matrix, None)
    if newest.role != "run":
        # What was accepted of a part of the cases leaves the others to older entries.
        expected = expected if whole.selection.complete else set(whole.cases)
        expected -= set(whole.accepted.retired if whole.accepted else ())
    comparison = judge(
        references,
        observations_of(whole, newest.name),
        expected=expected,
        complete=is_complete(whole.selection, ["*"], expected),
        invocation=Invocation(
            old=str(baselines),
            new=newest.name,
            file=str(newest.path),
            baselines=None if baselines == usual_storage() else str(baselines),
            matrix=None if matrix == usual_matrix() else matrix,
        ),
        devices=device_classes(),
    )
    if cases == "*":
        return comparison
    complete = is_complete(whole.selection, [cases], expected)
    return narrow(comparison, cases, complete=complete)


def _matrix_of(run: Run) -> str:
    counts = Counter(name for record in run for name in sorted(built_in_matrices(record.case)))
    return max(counts, key=lambda name: counts[name], default=usual_matrix())


def judged_pairs(
    entries: Sequence[Entry],
    orders: Mapping[str, Sequence[int]],
    *,
    whole_run: Callable[[Entry], Run],
    devices: Sequence[DeviceClass],
) -> dict[Pair, Comparison]:
    """Return the verdicts on the chosen pairs of entries."""
    observed: dict[int, dict[str, Observation]] = {}
    found = {}
    for pair in chosen_pairs(entries, orders):
        for index in pair:
            if index not in observed:
                entry = entries[index]
                every = observations_of(whole_run(entry), entry.name)
                observed[index] = {case: every[case] for case in entry.run.cases}
        old, new = (entries[index] for index in pair)
        found[pair] = judge(
            observed[pair[0]],
            observed[pair[1]],
            complete=is_complete(new.run.selection, ["*"], old.run.cases),
            invocation=Invocation(old=old.name, new=new.name),
            devices=devices,
        )
    return found


def chosen_pairs(entries: Sequence[Entry], orders: Mapping[str, Sequence[int]]) -> list[Pair]:
    """Return the pairs of entries to judge, none of which is without a common case.

    Neighbours in each order and each entry with the newest come first, from the newest back, then
    the other pairs of a few entries.
    """
    cases = [entry.run.cases.keys() for entry in entries]
    most = len(entries) if len(entries) <= _EVERY_PAIR else _MOST_ENTRIES
    chosen: dict[Pair, None] = {}
    read: set[int] = set()
    left = _MOST_JUDGED
    for pair in _by_priority(entries, orders):
        common = len(cases[pair[0]] & cases[pair[1]])
        if not common or pair in chosen or common > left or len(read | {*pair}) > most:
            continue
        left -= common
        read |= {*pair}
        chosen[pair] = None
    return list(chosen)


def _by_priority(entries: Sequence[Entry], orders: Mapping[str, Sequence[int]]) -> Iterator[Pair]:
    newest = len(entries) - 1
    for index in range(newest, max(newest - _EVERY_PAIR, -1), -1):
        for order in orders.values():
            before = _neighbour(entries, order, index)
            if before is not None:
                yield before, index
        if index != newest:
            yield index, newest
    if len(entries) <= _EVERY_PAIR:
        yield from itertools.permutations(range(newest, -1, -1), 2)


def _neighbour(entries: Sequence[Entry], order: Sequence[int], index: int) -> int | None:
    """Return the last entry before one, in an order, that shares a case with it."""
    known = entries[index].run.cases.keys()
    before = reversed(order[: order.index(index)])
    return next((one for one in before if entries[one].run.cases.keys() & known), None)
