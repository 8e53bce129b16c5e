"""Checkouts as they were at a commit, which a change of them is compared with.

Records are kept by the commit, so that the next change that begins there measures none of it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from msgspec import UNSET

from peft_regress.cases import Case
from peft_regress.files import cache_folder
from peft_regress.gate.repeats import KnownCurve, known_curves, whole
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.overlay.commits import Commit, earlier_checkouts
from peft_regress.overlay.folder import Overlay
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.runs.schema import Run
from peft_regress.upgrades.measuring import MeasuringSetup
from peft_regress.workers.keeper import Keeper


class CommitBase(NamedTuple):
    """A commit, its environment, and how to measure there."""

    commit: Commit
    overlay: Overlay
    setup: MeasuringSetup


@contextlib.contextmanager
def opened_commit(
    requirements: Sequence[str], base: str, setup: MeasuringSetup, *, replace_torch: bool
) -> Iterator[CommitBase]:
    """Make the environment of a commit. Raises what its parts raise."""
    with (
        earlier_checkouts(requirements, base) as commit,
        opened_overlay(commit.requirements, replace_torch=replace_torch) as overlay,
    ):
        folder = cache_folder() / "commits"
        folder.mkdir(parents=True, exist_ok=True)
        keeper = Keeper(None, folder / f"{overlay.folder.name}.json")
        try:
            kept = replace(setup, keeper=keeper, commit=commit.digest)
            yield CommitBase(commit, overlay, kept)
        finally:
            if keeper.writer is not None:
                keeper.writer.close()


def first_seeds(
    cases: Sequence[Case], commit: Commit, stored: Mapping[str, Observation]
) -> dict[str, list[KnownCurve]]:
    """Return what lets a commit train the first seed of each case alone in full."""
    known = known_curves(stored)
    for case in cases:
        known.setdefault(case.id, []).append(KnownCurve(curve=None, run_name=commit.name))
    return known


def as_references(
    run: Run, commit: Commit, stored: Mapping[str, Observation]
) -> dict[str, Observation]:
    """Return what a commit measured as what a candidate is judged by.

    Where the first seed repeats a stored training, a case has the scores of that. Elsewhere its
    curve stands for the others: a candidate that repeats it needs no more.
    """
    found = observations_of(run, commit.name)
    completed = {name: whole(one, stored.get(name)) for name, one in found.items()}
    known = {name: one.record.curve is not UNSET for name, one in completed.items()}
    return {
        name: replace(one, curves={one.machine.digest: one} if known[name] else {})
        for name, one in completed.items()
    }


def departed(references: Mapping[str, Observation], candidate: Run) -> list[Case]:
    """Return the cases in which a candidate departs from the first seed of its base."""
    ran = candidate.cases.items()
    trained = {name for name, one in ran if one.status == "ok" and not one.is_repeat}
    repeats = (one.record for one in references.values() if one.record.is_repeat)
    return [record.case for record in repeats if record.case.id in trained]
