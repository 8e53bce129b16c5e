"""Measure checkouts as they were at a commit, which a change of them is compared with.

Records are kept by the commit, so that the next change that begins there measures none of it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from peft_regress.baselines.references import read_references
from peft_regress.cases import Case
from peft_regress.files import cache_folder
from peft_regress.gate.repeats import KnownCurve, known_curves, whole
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.overlay.commits import Commit, earlier_checkouts
from peft_regress.overlay.folder import Overlay
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.runs.schema import Record, Run
from peft_regress.upgrades.measuring import MeasuringSetup, measure_cases
from peft_regress.workers.keeper import Keeper


@dataclass(frozen=True, kw_only=True)
class CommitBase:
    """The environment of a commit, to measure in."""

    commit: Commit
    overlay: Overlay
    setup: MeasuringSetup
    matrix: str

    def measure(self, cases: Sequence[Case], on_record: Callable[[Record], None]) -> Run:
        """Measure cases, of each the first seed alone in full."""
        known = known_curves(read_references(self.setup.baselines))
        for case in cases:
            curves = known.setdefault(case.id, [])
            curves.append(KnownCurve(curve=None, run_name=self.commit.name))
        return self._run(cases, known, on_record)

    def references(self, run: Run) -> Mapping[str, Observation]:
        """Return cases as what a candidate is judged by.

        Where the first seed repeats a stored training, they have the scores of that. Elsewhere its
        curve stands for the others: a candidate that repeats it needs no more.
        """
        stored = read_references(self.setup.baselines)
        found = {name: whole(one, stored.get(name)) for name, one in self._observed(run).items()}
        return {name: replace(one, curves={one.machine.digest: one}) for name, one in found.items()}

    def in_full(
        self, references: Mapping[str, Observation], candidate: Run
    ) -> Mapping[str, Observation]:
        """Measure all seeds of the cases in which a candidate departs."""
        departed = [
            one.record.case
            for name, one in references.items()
            if one.record.is_repeat and name in candidate.cases
            if candidate.cases[name].status == "ok" and not candidate.cases[name].is_repeat
        ]
        return self._observed(self._run(departed, {}, lambda _: None)) if departed else {}

    def _run(
        self,
        cases: Sequence[Case],
        known: Mapping[str, list[KnownCurve]],
        on_record: Callable[[Record], None],
    ) -> Run:
        return measure_cases(
            cases,
            python=self.overlay.python,
            planned=self.overlay.planned,
            setup=self.setup,
            matrix=self.matrix,
            known=known,
            on_record=on_record,
        )

    def _observed(self, run: Run) -> Mapping[str, Observation]:
        return observations_of(run, self.commit.name)


@contextlib.contextmanager
def opened_commit(
    requirements: Sequence[str],
    base: str,
    *,
    setup: MeasuringSetup,
    matrix: str,
    replace_torch: bool,
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
            yield CommitBase(
                commit=commit,
                overlay=overlay,
                setup=replace(setup, keeper=keeper, commit=commit.digest),
                matrix=matrix,
            )
        finally:
            if keeper.writer is not None:
                keeper.writer.close()
