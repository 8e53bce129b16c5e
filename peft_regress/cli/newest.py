"""Judge the newest of some entries and runs, as `compare` does: the verdict of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from peft_regress.baselines.history import newest_index
from peft_regress.baselines.lines import Entry
from peft_regress.baselines.references import (
    expected_cases,
    is_complete,
    read_references,
    read_references_before,
)
from peft_regress.catalogue.matrix import built_in_matrices
from peft_regress.catalogue.own_cases import device_classes, usual_matrix, usual_storage
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.judge import judge
from peft_regress.gate.narrowing import narrow
from peft_regress.gate.verdicts import observations_of
from peft_regress.runs.schema import Run


def judge_newest(
    baselines: Path, entries: Sequence[Entry], whole_run: Callable[[Entry], Run], cases: str
) -> Comparison | None:
    """Judge the last of `entries` that holds a case; `whole_run` reads it with its ledgers.

    A run is judged by the storage, an entry by what the storage held before it. `cases` is a glob;
    it narrows the verdict as `compare --only` does. Expected are the stored cases of the matrix
    that most cases of the run belong to, as in `compare --stored-only`. Return None for an entry
    that is the first with its cases: nothing judges it.
    """
    index = newest_index(entries)
    newest, is_run = entries[index], entries[index].role == "run"
    whole = whole_run(newest)
    references = (
        read_references(baselines, drift=True)
        if is_run
        else read_references_before(
            baselines, {path for one in entries[index:] if (path := one.path)}
        )
    )
    if not is_run and whole.cases.keys().isdisjoint(references):
        return None
    matrix = _matrix_of(whole)
    expected = expected_cases(references, matrix, None)
    if not is_run:
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
