"""The records of one pytest run: what it has measured, or taken from an earlier run."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft_regress.baselines.run_adapters import add_adapters
from peft_regress.gate.repeats import KnownCurve
from peft_regress.runs.journal import Header, KeptRecord, read_journal, resumed_journal, run_file_of
from peft_regress.runs.schema import Record
from peft_regress.text import count_of
from peft_regress.workers.keeper import Keeper


class RunRecords:
    """What this run has measured or taken so far."""

    def __init__(
        self,
        *,
        save: Path | None,
        resume: Path | None,
        header: Callable[[], Header],
        shown: Callable[[Path], str],
        known: Callable[[str], list[KnownCurve]],
    ) -> None:
        """Read nothing yet.

        save: the run file to come. resume: what an earlier run left. header: says where this run
        measures, and imports torch. shown: how a path is shown. known: what need not train in full.
        """
        self._save = save
        self._resume = resume
        self._shown = shown
        self._known = known
        self._header = functools.cache(header)
        self._keeper = Keeper(save, resume, option="--regress-resume", shown=shown)
        self.records: dict[str, Record] = {}
        self.taken: dict[str, KeptRecord] = {}
        """The kept records that were taken instead of measuring, by case."""

    def prepare(self) -> list[str]:
        """Look for what an earlier run left; see `Keeper.prepare`.

        What it kept beside its run file is copied; what does not fit is pruned later.
        """
        said = self._keeper.prepare()
        if self._resume is not None and self._save is not None and self._keeper.writer is not None:
            add_adapters(run_file_of(self._resume), self._save)
        return said

    def take(self, case: str, definition: Callable[[], str | None]) -> KeptRecord | None:
        """Return what an earlier run measured of a case; None if it must be measured."""
        if self._resume is None or not self._keeper.has(case):
            return None
        return self._keeper.take(case, self._header(), definition(), known=self._known(case))

    def keep(self, kept: KeptRecord) -> None:
        """Add a record, and put it on disk at once."""
        name = kept.record.case.id
        if self.records.get(name) == kept.record:
            return
        # First, so that an interrupt of the writing leaves it for the run file.
        self.records[name] = kept.record
        if kept.is_taken:
            self.taken[name] = kept
        if self._keeper.writer is not None:
            self._keeper.keep(self._header(), kept)

    def add_unreached(self, selected: frozenset[str]) -> None:
        """Add what the earlier run measured of cases that this run was stopped before."""
        for name in sorted(selected - self.records.keys()):
            kept = self.take(name, lambda: None)
            if kept is not None:
                self.records[name] = kept.record
                self.taken[name] = kept

    @property
    def times(self) -> list[dict[str, Any]]:
        """The entries of the taken records among `benchmarks`."""
        return [kept.times for kept in self.taken.values() if kept.times is not None]

    def finish(self, *, is_saved: bool, was_interrupted: bool) -> list[str]:
        """Remove the journals that the run file replaces; return what to say."""
        lines = []
        if self._resume is not None:
            lines += [
                f"resumed none of {count_of(count, 'case')}, measured elsewhere: {why}"
                for why, count in self._keeper.reasons.items()
            ]
            measured = len(self.records) - len(self.taken)
            lines.append(
                f"resumed {self._shown(self._resume)}: {count_of(len(self.taken), 'case')} taken, "
                f"{measured} measured"
            )
        writer = self._keeper.writer
        if writer is None:
            return lines
        if writer.problem is not None:
            lines.append(f"no journal was kept: {writer.problem}")
        if is_saved:
            self._forget_resumed()
            writer.remove()
            if was_interrupted and self._save is not None:
                shown = shlex.quote(self._shown(self._save))
                lines.append(f"interrupted: `--regress-resume {shown}` measures only the rest")
        elif writer.has_begun and writer.problem is None:
            shown = shlex.quote(self._shown(writer.path))
            lines.append(f"What was measured is in {shown}: `--regress-resume {shown}` takes it")
        writer.close()
        return lines

    def _forget_resumed(self) -> None:
        """Remove the journal that was resumed if this run has all of its cases."""
        if self._resume is None:
            return
        journal = resumed_journal(self._resume)
        if journal.is_file() and {one.case for one in read_journal(journal)} <= self.records.keys():
            journal.unlink(missing_ok=True)
