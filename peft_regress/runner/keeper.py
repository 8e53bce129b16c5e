"""Records are kept on disk as they are made, and those of an earlier run may be taken."""

import contextlib
import functools
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from msgspec import UNSET

from peft_regress.baselines.run_adapters import adapters_of_run, gathered_adapters
from peft_regress.gate.repeats import KnownCurve
from peft_regress.project.project import Project
from peft_regress.runs import journal
from peft_regress.runs.environment import installed_version
from peft_regress.runs.journal import Header, JournalWriter, KeptRecord, Line
from peft_regress.runs.own_code import was_edited
from peft_regress.text import count_of

_OF_SEARCH: Final = "--resume"


class Keeper:
    """Keeps records in a journal beside a run file, and takes those of an earlier run.

    Attributes:
        writer: Of the journal; None if nothing is kept.
        counts: How many records were taken, and measured.
        reasons: Why records of an earlier run were not taken, and how many.

    """

    def __init__(
        self,
        save: Path | None = None,
        resume: Path | None = None,
        *,
        option: str = _OF_SEARCH,
        shown: Callable[[Path], str] = str,
    ) -> None:
        """Read nothing yet.

        save: the run file to come; without, the journal is that of `resume`, what an earlier run
        left. option: how a user types the latter. shown: how a path is shown.
        """
        self.save, self.resume = save, resume
        self.option = option
        self.shown = shown
        self.reasons: Counter[str] = Counter()
        self.counts = {"taken": 0, "measured": 0}
        self.lines = functools.cache(self._read_lines)
        self.writer = None
        # Not beside /dev/stdout, for instance.
        if save is not None and (not save.exists() or save.is_file()):
            self.writer = JournalWriter(journal.journal_of(save), self.lines)
        elif save is None and resume is not None and option == _OF_SEARCH:
            self.writer = JournalWriter(journal.resumed_journal(resume), self.lines)

    def _read_lines(self) -> list[Line]:
        resume = self.resume
        if resume is None:
            return []
        # A search may begin with the journal that it goes on with later.
        is_absent = not any(map(os.path.lexists, (resume, journal.resumed_journal(resume))))
        return [] if is_absent and self.option == _OF_SEARCH else journal.read_lines(resume)

    def prepare(self) -> list[str]:
        """Put what an earlier run left out of this run's way; return what to say.

        What a resumed one kept beside its run file is copied; what does not fit is pruned later.
        Raises `InputError` if there is nothing to resume.
        """
        self.lines()
        if self.writer is None:
            return []
        if self.save is not None and self.resume is not None:
            source, beside = journal.run_file_of(self.resume), [adapters_of_run(self.save)]
            with gathered_adapters(source, self.save, beside=beside):
                pass
        path = self.writer.path
        aside = path.with_name(f"{path.name}.1")
        if path.exists() and not self._is_resumed(path):
            path.replace(aside)
        if not aside.exists() or self._is_resumed(aside):
            return []
        shown = shlex.quote(self.shown(aside))
        said = f"{self.shown(aside)}: of a run that did not end; `{self.option} {shown}` takes what"
        return [f"{said} it measured, `rm {shown}` forgets it"]

    def _is_resumed(self, path: Path) -> bool:
        resume = self.resume
        return resume is not None and path in (resume, journal.resumed_journal(resume))

    def has(self, case: str) -> bool:
        """Return whether an earlier run has a record of a case, usable or not."""
        return any(line.case == case for line in self.lines())

    def take(  # noqa: PLR0913  (what must be equal)
        self,
        case: str,
        header: Header,
        definition: str | None,
        project: Project,
        *,
        trains: bool = True,
        known: Sequence[KnownCurve] = (),
        version_of: Callable[[str], str | None] = installed_version,
        any_machine: bool = False,
    ) -> KeptRecord | None:
        """Return what an earlier run measured of a case last; None if it must be measured.

        Environment and definition must be equal; None is any definition. known: a record that
        repeats another run is taken only if that is known now. version_of: the version there of a
        package that not every case uses. With `any_machine` records may be of other machines, which
        they then name.
        """
        for line in reversed(self.lines()):
            if line.case != case:
                continue
            reasons = journal.differences(
                line.header, header, find=version_of, any_machine=any_machine
            )
            if reasons:
                self.reasons["; ".join(reasons[:3])] += 1
                continue
            kept = journal.as_taken(line, header, find=version_of)
            if (
                kept is not None
                and (any_machine or kept.record.machine is UNSET)
                and definition in {None, kept.record.definition}
                and kept.trains == trains
                and not was_edited(kept.record, project)
                and (
                    not kept.record.is_repeat
                    or any(one.is_repeated_by(kept.record) for one in known)
                )
            ):
                return kept
        return None

    def keep(self, header: Header, kept: KeptRecord) -> None:
        """Put a record on disk at once; `header` says where it was measured."""
        self.counts["taken" if kept.is_taken else "measured"] += 1
        if self.writer is not None:
            self.writer.add(header, kept)

    def finish(self, cases: Container[str], *, is_saved: bool, was_interrupted: bool) -> list[str]:
        """Remove the journals that a run file of these cases replaces; return what to say."""
        lines = []
        if self.resume is not None:
            lines += [
                f"resumed none of {count_of(count, 'case')}, measured elsewhere: {why}"
                for why, count in self.reasons.items()
            ]
            taken, measured = count_of(self.counts["taken"], "case"), self.counts["measured"]
            lines.append(f"resumed {self.shown(self.resume)}: {taken} taken, {measured} measured")
        writer = self.writer
        if writer is None:
            return lines
        if writer.problem is not None:
            lines.append(f"no journal was kept: {writer.problem}")
        if is_saved:
            resumed = self.resume and journal.resumed_journal(self.resume)
            if resumed and resumed.is_file():
                lines_there = journal.read_journal(resumed)
                if all(line.case in cases for line in lines_there):
                    resumed.unlink(missing_ok=True)
            writer.remove()
            if was_interrupted:
                run_file = shlex.quote(self.shown(journal.run_file_of(writer.path)))
                lines.append(f"interrupted: `{self.option} {run_file}` measures only the rest")
        elif writer.has_begun and writer.problem is None:
            shown = shlex.quote(self.shown(writer.path))
            lines.append(f"What was measured is in {shown}: `{self.option} {shown}` takes it")
        writer.close()
        return lines


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
) -> Iterator[Keeper]:
    """Keep what is measured in the context until it ends well; nothing if nobody named a file.

    save: the run file to come; the journal stands beside it. resume: the journal or run file of an
    earlier try, which need not exist. Raises `InputError` for one that cannot be read.
    """
    keeper = Keeper(save, resume)
    for line in keeper.prepare():
        say(line)
    if resume is not None:
        say(f"resuming {resume}: {count_of(len(keeper.lines()), 'record')}")
    is_done = False
    try:
        yield keeper
        is_done = True
    finally:
        for line in keeper.finish((), is_saved=is_done, was_interrupted=False):
            say(line)
