"""Records are kept on disk as they are made, and those of an earlier run may be taken."""

from __future__ import annotations

import contextlib
import functools
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from peft_regress.errors import InputError
from peft_regress.gate.repeats import KnownCurve
from peft_regress.own_code import was_edited
from peft_regress.runs.journal import (
    Header,
    JournalWriter,
    KeptRecord,
    Part,
    is_being_written,
    journal_of,
    read_journal,
    resumed_journal,
    set_aside,
)
from peft_regress.runs.resuming import brief, differences, read_parts, usable_records
from peft_regress.text import count_of

_OF_SEARCH: Final = "--resume"


def can_stand_beside(path: Path) -> bool:
    """Return whether files may stand beside a run file; not beside /dev/stdout, for instance."""
    return not path.exists() or path.is_file()


class Keeper:
    """Keeps records in a journal beside a run file, and takes those of an earlier run.

    Threads may share it.

    Attributes:
        writer: Of the journal; None if nothing is kept.
        counts: How many records were taken, and measured.
        reasons: Why records of an earlier run were not taken: how many, and what was different.

    """

    def __init__(
        self,
        save: Path | None,
        resume: Path | None,
        *,
        option: str = _OF_SEARCH,
        shown: Callable[[Path], str] = str,
    ) -> None:
        """Read nothing yet.

        save: the run file to come; without, the journal is that of `resume`, what an earlier run
        left. option: how a user types the latter. shown: how a path is shown.
        """
        self.resume = resume
        self.option = option
        self.shown = shown
        self.reasons: list[tuple[int, str]] = []
        self.counts = {"taken": 0, "measured": 0}
        self.writer = None
        if save is not None and can_stand_beside(save):
            self.writer = JournalWriter(journal_of(save))
        elif save is None and resume is not None and option == _OF_SEARCH:
            self.writer = JournalWriter(resumed_journal(resume))
        self.parts = functools.cache(self._read_parts)
        self._earlier: list[tuple[Header, dict[str, list[KeptRecord]]]] = []
        self._begun: list[Header] = []
        self._there: set[str] = set()
        """The cases that the journal had before."""
        self._lock = threading.RLock()

    def _read_parts(self) -> list[Part]:
        resume = self.resume
        if resume is None:
            return []
        # A search may begin with the journal that it goes on with later.
        is_absent = not (resume.exists() or resumed_journal(resume).exists())
        return [] if is_absent and self.option == _OF_SEARCH else read_parts(resume)

    def prepare(self) -> list[str]:
        """Put what an earlier run left out of this run's way; return what to say.

        Raises `InputError` if there is nothing to resume, or if another run writes there now.
        """
        self.parts()
        if self.writer is None or not self.writer.path.parent.is_dir():
            return []
        path = self.writer.path
        if path.exists() and is_being_written(path):
            raise InputError(
                f"{self.shown(path)}: another run writes to it now. Choose another path."
            )
        if path.exists() and not self.is_resumed(path):
            set_aside(path)
        name = "".join(f"[{char}]" if char in "*?[" else char for char in path.name)
        left = sorted(path.parent.glob(f"{name}.[0-9]*"))
        return [line for one in left if not self.is_resumed(one) for line in self._named(one)]

    def is_resumed(self, path: Path) -> bool:
        """Return whether a path is what this run resumes."""
        return self.resume is not None and path in (self.resume, resumed_journal(self.resume))

    def _named(self, path: Path) -> list[str]:
        """Return what to say of the journal of a run that died."""
        try:
            count = len(read_journal(path).cases)
        except InputError as error:
            return [str(error)]
        shown = shlex.quote(self.shown(path))
        said = f"{self.shown(path)}: of a run that did not end, with {count_of(count, 'case')}; "
        return [f"{said}`{self.option} {shown}` takes them, `rm {shown}` forgets them"]

    def has(self, case: str) -> bool:
        """Return whether an earlier run has a record of a case, usable or not."""
        return any(kept.record.case.id == case for part in self.parts() for kept in part.records)

    def earlier(
        self,
        header: Header,
        *,
        version_of: Callable[[str], str | None] | None = None,
        any_machine: bool = False,
    ) -> dict[str, list[KeptRecord]]:
        """Return what an earlier run measured in an equal environment, by case, the last one last.

        version_of: the version there of a package that not every case uses. With `any_machine`
        records may be of other machines, which they then name.
        """
        with self._lock:
            known = next((found for one, found in self._earlier if one == header), None)
            if known is not None:
                return known
            found: dict[str, list[KeptRecord]] = {}
            for part in self.parts():
                reasons = differences(part, header, version_of=version_of, any_machine=any_machine)
                if reasons:
                    self.reasons.append((len(part.records), brief(reasons)))
                    continue
                usable = usable_records(
                    part, header, version_of=version_of, any_machine=any_machine
                )
                for name, kept in usable.items():
                    found.setdefault(name, []).append(kept)
            self._earlier.append((header, found))
            return found

    def take(
        self,
        candidates: Sequence[KeptRecord],
        definition: str,
        *,
        trains: bool = True,
        known: Sequence[KnownCurve] | None = None,
    ) -> KeptRecord | None:
        """Return what does for a case of this definition; None if it must be measured.

        known: a record that repeats another run is taken only if that is known now; None takes it.
        """
        for kept in reversed(candidates):
            record = kept.record
            if (record.definition, kept.trains) != (definition, trains) or was_edited(record):
                continue
            if (
                known is None
                or not record.is_repeat
                or record.curve in [one.curve for one in known]
            ):
                return kept
        return None

    def keep(self, header: Header, kept: KeptRecord) -> None:
        """Put a record on disk at once."""
        with self._lock:
            self.counts["taken" if kept.is_taken else "measured"] += 1
            if self.writer is None:
                return
            if header not in self._begun:
                self._begin(self.writer, header)
            if not kept.is_taken:
                self.writer.add(header, kept)

    def _begin(self, writer: JournalWriter, header: Header) -> None:
        """Begin with all that may be taken there: this run may die too."""
        if not self._begun and writer.path.exists() and self.is_resumed(writer.path):
            journal = read_journal(writer.path)
            writer.go_on(journal)
            self._there = journal.cases
        self._begun.append(header)
        earlier = next((found for one, found in self._earlier if one == header), {})
        lacking = [one for name, all_ in earlier.items() if name not in self._there for one in all_]
        writer.add(header, *lacking)


def version_in(python: Path) -> Callable[[str], str | None]:
    """Return a function that finds a package's version for an interpreter over the running one."""
    own = python.absolute().parent.parent.glob("lib/python*/site-packages")
    path = [*map(str, own), *sys.path]

    def find(name: str) -> str | None:
        return next((found.version for found in distributions(name=name, path=path)), None)

    return find


@contextlib.contextmanager
def kept_records(
    save: Path | None, resume: Path | None, say: Callable[[str], None]
) -> Iterator[Keeper | None]:
    """Keep what is measured in the context until it ends well; None if nobody named a file.

    save: the run file to come; the journal stands beside it. resume: the journal or run file of an
    earlier try, which need not exist. Raises `InputError` for one that cannot be read.
    """
    if save is None and resume is None:
        yield None
        return
    keeper = Keeper(save, resume)
    for line in keeper.prepare():
        say(line)
    if resume is not None:
        count = count_of(sum(len(part.records) for part in keeper.parts()), "record")
        say(f"resuming {resume}: {count}")
    try:
        yield keeper
    except BaseException:
        _leave(keeper.writer, say)
        raise
    if resume is not None:
        taken = keeper.counts["taken"]
        why = f": {keeper.reasons[0][1]}" if keeper.reasons and not taken else ""
        say(f"{count_of(taken, 'record')} taken, {keeper.counts['measured']} measured{why}")
    if keeper.writer is not None:
        if keeper.writer.problem is not None:
            say(f"no journal was kept: {keeper.writer.problem}")
        keeper.writer.remove()


def _leave(writer: JournalWriter | None, say: Callable[[str], None]) -> None:
    """Leave the journal of a search that was ended, and say how to go on."""
    if writer is None:
        return
    if writer.path.exists():
        shown = shlex.quote(str(writer.path))
        say(f"what was measured is in {shown}; the same command with --resume {shown} takes it")
    writer.close()
