"""The records of one pytest run: kept on disk as they are made, or taken from an earlier run."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from peft_regress.baselines.run_adapters import add_adapters
from peft_regress.errors import InputError
from peft_regress.runs.journal import (
    Header,
    JournalWriter,
    KeptRecord,
    is_being_written,
    journal_of,
    read_journal,
    resumed_journal,
    run_file_of,
    set_aside,
)
from peft_regress.runs.resuming import brief, differences, read_parts, usable_records
from peft_regress.runs.schema import Record
from peft_regress.text import count_of


def can_stand_beside(path: Path | None) -> bool:
    """Return whether files may stand beside a run file; not beside /dev/stdout, for instance."""
    return path is not None and (not path.exists() or path.is_file())


class RunRecords:
    """What this run has measured or taken so far."""

    def __init__(
        self,
        *,
        save: Path | None,
        resume: Path | None,
        header: Callable[[], Header],
        shown: Callable[[Path], str],
        may_take: Callable[[Record], bool],
    ) -> None:
        """Read nothing yet.

        save: the run file to come. resume: what an earlier run left. header: says where this run
        measures, and imports torch. shown: how a path is shown. may_take: whether a record of an
        earlier run does for this one.
        """
        self._save = save
        self._resume = resume
        self._header = functools.cache(header)
        self._shown = shown
        self._may_take = may_take
        self._writer = JournalWriter(journal_of(save)) if save and can_stand_beside(save) else None
        self._parts = functools.cache(lambda: [] if resume is None else read_parts(resume))
        self._earlier = functools.cache(self._read_earlier)
        self.records: dict[str, Record] = {}
        self.taken: dict[str, KeptRecord] = {}
        """The kept records that were taken instead of measuring, by case."""
        self.notes: list[str] = []
        """What to say at the end."""

    def prepare(self) -> list[str]:
        """Look for what an earlier run left, and put it out of this run's way; return what to say.

        Raises `InputError` if there is nothing to resume, or if another run writes there now.
        """
        self._parts()
        self._take_adapters()
        if self._save is None or self._writer is None or not self._save.parent.is_dir():
            return []
        path = self._writer.path
        if path.exists() and is_being_written(path):
            raise InputError(
                f"{self._shown(path)}: another run writes to it now. Choose another path."
            )
        if path.exists() and not self._is_resumed(path):
            set_aside(path)
        left = sorted(path.parent.glob(f"{_escaped(path.name)}.[0-9]*"))
        return [line for one in left if not self._is_resumed(one) for line in self._named(one)]

    def _is_resumed(self, path: Path) -> bool:
        return self._resume is not None and path in (self._resume, resumed_journal(self._resume))

    def _named(self, path: Path) -> list[str]:
        """Return what to say of the journal of a run that died."""
        try:
            count = len(read_journal(path).cases)
        except InputError as error:
            return [str(error)]
        shown = shlex.quote(self._shown(path))
        return [
            (
                f"{self._shown(path)}: of a run that did not end, with {count_of(count, 'case')}; "
                f"`--regress-resume {shown}` takes them, `rm {shown}` forgets them"
            )
        ]

    def _read_earlier(self) -> dict[str, KeptRecord]:
        """Return what an earlier run measured in the same environment, by case."""
        found: dict[str, KeptRecord] = {}
        here = self._header()
        for part in self._parts():
            reasons = differences(part, here)
            if reasons:
                count = count_of(len(part.records), "case")
                self.notes.append(f"resumed none of {count}, measured elsewhere: {brief(reasons)}")
            else:
                usable = usable_records(part, here).items()
                found |= {name: kept for name, kept in usable if self._may_take(kept.record)}
        return found

    def _take_adapters(self) -> None:
        """Copy what the earlier run kept beside its run file; what does not fit is pruned later."""
        if self._resume is None or self._save is None or self._writer is None:
            return
        add_adapters(run_file_of(self._resume), self._save)

    def take(self, case: str, definition: Callable[[], str]) -> KeptRecord | None:
        """Return what an earlier run measured of a case; None if it must be measured."""
        if self._resume is None:
            return None
        kept = self._earlier().get(case)
        return kept if kept is not None and kept.record.definition == definition() else None

    def keep(self, kept: KeptRecord) -> None:
        """Add a record, and put it on disk at once."""
        name = kept.record.case.id
        if self.records.get(name) == kept.record:
            return
        # First, so that an interrupt of the writing leaves it for the run file.
        self.records[name] = kept.record
        if kept.is_taken:
            self.taken[name] = kept
        if self._writer is not None:
            self._start(self._writer)
            self._writer.add(self._header(), kept)

    def _start(self, writer: JournalWriter) -> None:
        """Begin with all that may be taken: this run may die too."""
        if self._resume is None or writer.has_begun:
            return
        there: set[str] = set()
        if writer.path.exists() and self._is_resumed(writer.path):
            journal = read_journal(writer.path)
            writer.go_on(journal)
            there = journal.cases
        lacking = [kept for name, kept in self._earlier().items() if name not in there]
        writer.add(self._header(), *lacking)

    def add_unreached(self, selected: Collection[str]) -> None:
        """Add what the earlier run measured of cases that this run was stopped before."""
        for name, kept in self._earlier().items() if self._parts() else ():
            if name in selected and name not in self.records:
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
            self._earlier()
            lines += self.notes
            measured = len(self.records) - len(self.taken)
            lines.append(
                f"resumed {self._shown(self._resume)}: {count_of(len(self.taken), 'case')} taken, "
                f"{measured} measured"
            )
        writer = self._writer
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
        if journal.is_file() and read_journal(journal).cases <= self.records.keys():
            journal.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    """Return a file name without a meaning to `glob`."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
