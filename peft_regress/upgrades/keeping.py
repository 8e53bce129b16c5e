"""What workers measured is kept in a journal, so that a search that dies goes on where it was."""

from __future__ import annotations

import contextlib
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path

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


class RecordKeeper:
    """Takes what was measured in an equal environment, and keeps what is measured now.

    Threads may share it.
    """

    def __init__(self, writer: JournalWriter, parts: list[Part]) -> None:
        self._writer = writer
        self._parts = parts
        self._lock = threading.Lock()
        self.taken = 0
        self.measured = 0
        self.reasons: list[str] = []
        """What was different in the part that was looked at last."""

    def take(  # noqa: PLR0913  (what is asked for, and where)
        self,
        case: str,
        definition: str,
        header: Header,
        *,
        trains: bool,
        python: Path,
        known: Sequence[KnownCurve] = (),
        any_machine: bool = False,
    ) -> KeptRecord | None:
        """Return what was measured of a case in an environment; None if it must be measured.

        A record that repeats another run is taken only if that is known now. With `any_machine` it
        may be of another machine, which it then names.
        """
        found = None
        for part in self._parts:
            find = version_in(python)
            reasons = differences(part, header, version_of=find, any_machine=any_machine)
            if reasons:
                self.reasons = self.reasons or reasons
                continue
            usable = usable_records(part, header, version_of=find, any_machine=any_machine)
            kept = usable.get(case)
            if kept is None or (kept.record.definition, kept.trains) != (definition, trains):
                continue
            if was_edited(kept.record):
                continue
            curves = [one.curve for one in known]
            if not kept.record.is_repeat or kept.record.curve in curves:
                found = kept
        with self._lock:
            self.taken += found is not None
        return found

    def has(self, case: str) -> bool:
        """Return whether an earlier try has a record of a case, usable or not."""
        return any(kept.record.case.id == case for part in self._parts for kept in part.records)

    def keep(self, header: Header, kept: KeptRecord) -> None:
        """Write a record to the journal; one that was taken is there, or in what is resumed."""
        if not kept.is_taken:
            with self._lock:
                self.measured += 1
                self._writer.add(header, kept)


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
) -> Iterator[RecordKeeper | None]:
    """Keep what is measured in the context until it ends well; None if nobody named a file.

    save: the run file to come; the journal stands beside it. resume: the journal or run file of an
    earlier try, which need not exist. Raises `InputError` for one that cannot be read.
    """
    if save is not None:
        writer = JournalWriter(journal_of(save))
    elif resume is not None:
        writer = JournalWriter(resumed_journal(resume))
    else:
        yield None
        return
    _prepare(writer, resume, say)
    parts = _parts_of(resume)
    if resume is not None:
        count = count_of(sum(len(part.records) for part in parts), "record")
        say(f"resuming {resume}: {count}")
    keeper = RecordKeeper(writer, parts)
    try:
        yield keeper
    except BaseException:
        if writer.path.exists():
            shown = shlex.quote(str(writer.path))
            say(f"what was measured is in {shown}; the same command with --resume {shown} takes it")
        writer.close()
        raise
    if resume is not None:
        why = f": {brief(keeper.reasons)}" if keeper.reasons and not keeper.taken else ""
        say(f"{count_of(keeper.taken, 'record')} taken, {keeper.measured} measured{why}")
    if writer.problem is not None:
        say(f"no journal was kept: {writer.problem}")
    writer.remove()


def _parts_of(resume: Path | None) -> list[Part]:
    if resume is None or not (resume.exists() or resumed_journal(resume).exists()):
        return []
    return read_parts(resume)


def _prepare(writer: JournalWriter, resume: Path | None, say: Callable[[str], None]) -> None:
    """Go on with the journal that is resumed; put another one out of the way."""
    path = writer.path
    if not path.exists():
        return
    if is_being_written(path):
        raise InputError(f"{path}: another run writes to it now. Choose another path.")
    if resume is not None and path == resumed_journal(resume):
        writer.go_on(read_journal(path))
    else:
        aside = set_aside(path)
        shown = shlex.quote(str(aside))
        say(f"{shown}: of a run that did not end; --resume {shown} takes what it measured")
