"""Comparisons of entries as the page shows them, each made by the gate when the page is made."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from peft_regress.baselines.history import newest_index
from peft_regress.baselines.lines import Entry
from peft_regress.baselines.references import is_complete
from peft_regress.devices import DeviceClass
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.report.page.shown import ShownFinding, shown_verdict
from peft_regress.report.page.whole_runs import WholeRuns
from peft_regress.report.sentences import narrowing_words
from peft_regress.report.verdict.next_steps import compare_command, quoted, storage_words

Pair = tuple[int, int]
"""The indices of the entries OLD and NEW."""

_MOST_JUDGED: Final = 12_000
"""Cases of all judged pairs of entries together: they take 3 s at most."""
_EVERY_PAIR: Final = 24
"""Up to so many entries, every pair is judged that there is room for."""
_MOST_ENTRIES: Final = 10
"""Of more entries, so many are judged: the ledgers of each must be read."""


class Texts:
    """Strings that many comparisons share, each by its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Return the number of a text."""
        return self._numbers.setdefault(text, len(self._numbers))

    def numbers(self, texts: Iterable[str]) -> list[int]:
        """Return the number of each text."""
        return [self.number(text) for text in texts]

    @property
    def all(self) -> list[str]:
        """The texts by their numbers."""
        return list(self._numbers)


def encode_comparisons(
    entries: Sequence[Entry],
    orders: Mapping[str, Sequence[int]],
    *,
    runs: WholeRuns,
    devices: Sequence[DeviceClass],
    newest: Comparison | None,
) -> dict[str, Any]:
    """Return the verdict on the newest entry, and the pairs of entries that were judged.

    `newest` is None if nothing was judged. Texts of comparisons are numbers of `texts`.
    """
    texts = Texts()
    verdict: dict[str, Any] | None = None
    if newest is not None:
        index = newest_index(entries)
        is_run = entries[index].role == "run"
        verdict = {
            "old": None,
            "new": index,
            **_encode(newest, texts, new=entries[index], with_steps=is_run),
        }
        if is_run and newest.references:
            verdict["command"] = texts.number(compare_command(newest.invocation))
    pairs = [
        {
            "old": old,
            "new": new,
            **_encode(comparison, texts, new=entries[new], with_steps=False),
        }
        for (old, new), comparison in _judged_pairs(entries, orders, runs=runs, devices=devices)
    ]
    return {
        "verdict": verdict,
        "pairs": pairs,
        "names": [quoted(entry.name) for entry in entries],
        "options": "" if newest is None else " ".join(storage_words(newest.invocation)),
        "texts": texts.all,
    }


def verdicts_by_case(newest: Comparison | None) -> dict[str, str]:
    """Return the verdict on each case of the newest entry."""
    if newest is None:
        return {}
    return {case.id: case.verdict for case in newest.cases if case.id in newest.observed}


def _judged_pairs(
    entries: Sequence[Entry],
    orders: Mapping[str, Sequence[int]],
    *,
    runs: WholeRuns,
    devices: Sequence[DeviceClass],
) -> Iterator[tuple[Pair, Comparison]]:
    observed: dict[int, dict[str, Observation]] = {}
    for pair in chosen_pairs(entries, orders):
        for index in pair:
            if index not in observed:
                name = entries[index].name
                run, known = runs.read(index), entries[index].run.cases
                found = observations_of(run, name)
                observed[index] = {case: found[case] for case in known}
        old, new = (entries[index] for index in pair)
        yield (
            pair,
            judge(
                observed[pair[0]],
                observed[pair[1]],
                complete=is_complete(new.run.selection, ["*"], old.run.cases),
                invocation=Invocation(old=old.name, new=new.name),
                devices=devices,
            ),
        )


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


def _encode(
    comparison: Comparison, texts: Texts, *, new: Entry, with_steps: bool
) -> dict[str, Any]:
    """Return a comparison; if `new` was accepted, without what to type."""
    shown = shown_verdict(comparison)
    partial = [] if comparison.complete else [f"partial run: {narrowing_words(new.run.selection)}"]
    encoded: dict[str, Any] = {
        "exit_code": comparison.lenient_exit_code,
        "style": shown.style,
        "outcome": texts.number(shown.outcome),
        "counts": comparison.counts,
        "findings": [
            _encode_finding(finding, texts, is_accepted=new.role != "run")
            for finding in shown.findings
        ],
        "setting": texts.numbers([*partial, *shown.setting, *shown.times]),
    }
    if comparison.repeating:
        encoded["repeats"] = len(comparison.repeating)
    for name, found in (("defects", shown.defects), ("remarks", shown.remarks)):
        if found:
            encoded[name] = [
                [texts.number(what), texts.numbers(ids)] for what, ids in found.items()
            ]
    if shown.budgets.rows:
        encoded["budgets"] = [texts.numbers(row.cells) for row in shown.budgets.rows]
    if with_steps and shown.steps:
        encoded["steps"] = [
            [texts.number(what), texts.number(" ".join(words))] for what, words in shown.steps
        ]
    return encoded


def _encode_finding(finding: ShownFinding, texts: Texts, *, is_accepted: bool) -> dict[str, Any]:
    # The remedy of what was not compared is to accept it.
    is_mended = finding.group == "incomplete" and is_accepted
    encoded: dict[str, Any] = {
        "group": finding.group,
        "verdict": finding.verdict,
        "headline": texts.number(finding.headline),
        "about": texts.numbers(() if is_mended else finding.about),
    }
    if finding.rows:
        encoded["rows"] = [
            texts.numbers((shown.case, shown.row.title, *shown.row.cells)) for shown in finding.rows
        ]
    else:
        encoded["cases"] = texts.numbers(finding.cases)
    if finding.example is not None:
        case, lines = finding.example
        encoded["example"] = [texts.number(case), texts.numbers(lines)]
    return encoded
