"""Run the examples of the corpus again: which defects are mended, still there, or new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from peft_fuzz.example import Outcome
from peft_fuzz.search import worker
from peft_fuzz.search.causes import Cause, cause_of
from peft_fuzz.search.findings import Finding
from peft_fuzz.search.worker import LIFE_SECONDS, START_SECONDS, Begin, Begun, Live
from peft_regress.text import clean
from peft_regress.workers.pool import Environment, LocalPool
from peft_regress.workers.worker import WorkerError

State: TypeAlias = Literal["mended", "still there", "new", "absent", "not replayed"]


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """An entry of the corpus in one environment.

    Attributes:
        state: `new` for an entry that was mended and fails again, or that fails by another check.
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
    """The corpus in one environment; `entries` has one for each finding, as far as it came."""

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

    def run(self, environment: Environment, *, life_seconds: float = LIFE_SECONDS) -> None:
        """Run the example of each finding in an environment that has this package."""
        self.entries = [
            Replayed(finding=one, state="not replayed", remark="interrupted")
            for one in self.findings
        ]
        lives = [Live(example=one.example, life_seconds=life_seconds) for one in self.findings]
        with LocalPool(1, time_limit=START_SECONDS) as pool:
            begin = [Begin(methods=())]
            (begun,) = pool.submit(environment, f"{worker.__name__}:begin", begin, Begun)
            self.packages = begun.result().packages
            futures = pool.submit(environment, f"{worker.__name__}:live", lives, Outcome)
            for number, (finding, future) in enumerate(zip(self.findings, futures, strict=True)):
                try:
                    self.entries[number] = judged(finding, future.result())
                except WorkerError as error:
                    self.entries[number] = Replayed(
                        finding=finding, state="not replayed", remark=clean(str(error), longest=300)
                    )


def judged(finding: Finding, outcome: Outcome) -> Replayed:
    """Return the state of an entry by the outcome of its example."""
    state: State = "still there"
    failure, remark = outcome.failure, ""
    if outcome.absent is not None:
        state, remark = "absent", f"this release lacks {clean(outcome.absent)}"
    elif failure is None:
        state = "mended"
        remark = "" if outcome.refused is None else f"refused now: {clean(outcome.refused)}"
    elif failure.check != finding.failure.check:
        state, remark = "new", f"fails otherwise: {clean(failure.message, longest=300)}"
    elif finding.mended is not None:
        with_packages = " ".join(f"{name} {one}" for name, one in finding.mended.items())
        state, remark = "new", f"was mended with {with_packages}"
    return Replayed(finding=finding, state=state, outcome=outcome, remark=remark)
