"""Run the examples of the corpus again: which defects are mended, still there, or new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from peft_fuzz.example import Outcome
from peft_fuzz.oracle.checks import CRASH
from peft_fuzz.search.causes import Cause, cause_of
from peft_fuzz.search.findings import Finding
from peft_fuzz.search.workers import LIFE_SECONDS, LifeWorker
from peft_regress.text import clean
from peft_regress.workers.process import WorkerError

State: TypeAlias = Literal["mended", "still there", "new", "absent", "not replayed"]

MOST_DEATHS: Final = 3
"""After so many entries in a row that end the process, the environment is what is wrong."""

_OTHERWISE: Final = "fails otherwise: "


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """An entry of the corpus in one environment.

    Attributes:
        state: `new` for an entry that was mended and fails again, or that fails by another check;
            `absent` if the release lacks the method or a setting; `not replayed` if nobody knows.
        remark: What it says now, or why it could not be replayed; '' if there is nothing to add.

    """

    finding: Finding
    state: State
    outcome: Outcome | None = None
    remark: str = ""

    @property
    def cause(self) -> Cause | None:
        """Return the cause as it is in this environment: a function may have another name there."""
        if self.outcome is None or self.outcome.failure is None:
            return None
        return cause_of(self.finding.example, self.outcome.failure)


@dataclass(kw_only=True)
class Replay:
    """The corpus in one environment, as far as it was replayed.

    Attributes:
        entries: One for each finding; `not replayed` until it was, or if it cannot be.

    """

    findings: Sequence[Finding] = ()
    entries: list[Replayed] = field(default_factory=list)
    packages: Mapping[str, str] = field(default_factory=dict)

    def of(self, state: State) -> list[Replayed]:
        """Return the entries in a state."""
        return [one for one in self.entries if one.state == state]

    @property
    def newly_mended(self) -> list[Replayed]:
        """Return the entries that are mended, which the corpus does not know yet."""
        return [one for one in self.of("mended") if one.finding.mended is None]

    @property
    def is_complete(self) -> bool:
        """Whether every entry was replayed."""
        return not self.of("not replayed")

    def run(self, python: Path, *, life_seconds: float = LIFE_SECONDS) -> None:
        """Run the example of each finding in an interpreter that has this package.

        If three entries in a row end the process, which they did not do when they were found, those
        and all that follow are `not replayed`; after an interrupt, which is raised, the rest is.
        Raises `UnusableEnvironmentError` if the libraries cannot be imported there.
        """
        methods = sorted({finding.example.method for finding in self.findings})
        self.entries = [_not_replayed(finding, "interrupted") for finding in self.findings]
        with LifeWorker(python, methods, life_seconds=life_seconds) as worker:
            self.packages = worker.begin().packages
            for number, finding in enumerate(self.findings, start=1):
                self.entries[number - 1] = _replayed(finding, worker)
                last = self.entries[max(number - MOST_DEATHS, 0) : number]
                if len(last) == MOST_DEATHS and all(map(_has_died, last)):
                    rest = self.findings[number - MOST_DEATHS :]
                    remark = _deaths(last)
                    self.entries[number - MOST_DEATHS :] = [
                        _not_replayed(one, remark) for one in rest
                    ]
                    return


def _has_died(one: Replayed) -> bool:
    """Return whether an entry ends the process that did not when it was found."""
    failure = None if one.outcome is None else one.outcome.failure
    return failure is not None and failure.check == CRASH != one.finding.failure.check


def _deaths(entries: Sequence[Replayed]) -> str:
    names = ", ".join(one.finding.name for one in entries)
    remark = entries[-1].remark.removeprefix(_OTHERWISE)
    return f"stopped: {MOST_DEATHS} entries in a row ended the process ({names}); {remark}"


def _not_replayed(finding: Finding, remark: str) -> Replayed:
    return Replayed(finding=finding, state="not replayed", remark=clean(remark, longest=300))


def _replayed(finding: Finding, worker: LifeWorker) -> Replayed:
    try:
        outcome = worker.live(finding.example)
    except WorkerError as error:
        return _not_replayed(finding, str(error))
    return judged(finding, outcome)


def judged(finding: Finding, outcome: Outcome) -> Replayed:
    """Return the state of an entry by the outcome of its example."""
    failure = outcome.failure
    if outcome.absent is not None:
        remark = f"this release lacks {clean(outcome.absent)}"
        return Replayed(finding=finding, state="absent", outcome=outcome, remark=remark)
    if failure is None:
        remark = "" if outcome.refused is None else f"refused now: {clean(outcome.refused)}"
        return Replayed(finding=finding, state="mended", outcome=outcome, remark=remark)
    if failure.check != finding.failure.check:
        remark = f"{_OTHERWISE}{clean(failure.message, longest=300)}"
        return Replayed(finding=finding, state="new", outcome=outcome, remark=remark)
    if finding.mended is not None:
        with_packages = " ".join(f"{name} {one}" for name, one in finding.mended.items())
        remark = f"was mended with {with_packages}"
        return Replayed(finding=finding, state="new", outcome=outcome, remark=remark)
    return Replayed(finding=finding, state="still there", outcome=outcome)
