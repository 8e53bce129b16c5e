"""A run compared with its references, as reports show it; `judge` makes it. Pure."""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from peft_regress.gate import verdicts
from peft_regress.gate.findings import Finding
from peft_regress.gate.verdicts import CaseVerdict, Verdict


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """The arguments that the user typed, so that reports can print the next command."""

    old: str = "baselines"
    """A baseline storage, a run file or an entry."""
    new: str | None = None
    """The run file, or an entry; None if no run file was written."""
    file: str | None = None
    """The run file if `new` names an entry."""
    suite: str = "benchmarks"
    """The arguments of pytest that collect and judge the tests."""
    baselines: str | None = None
    """The storage if it is not ./baselines."""
    strict: bool = False
    matrix: str | None = None
    """The matrix whose cases are expected if it is not the default one."""
    cases: str = "*"
    """A glob on the ids of the cases that are judged."""

    @property
    def run(self) -> str:
        """The run file, or the usual name of a run file."""
        return self.new or "run.json"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The verdict on each case, the findings behind them, and both sides."""

    cases: tuple[CaseVerdict, ...]
    """Sorted by id."""
    findings: tuple[Finding, ...]
    """The gravest first, then those with the most cases."""
    references: Mapping[str, verdicts.Observation]
    observed: Mapping[str, verdicts.Observation]
    complete: bool = True
    """Whether the run measured all that it was asked for."""
    not_judged: int = 0
    """How many cases of the run are left out: nobody knows whether they are worse."""
    invocation: Invocation = Invocation()

    @property
    def strict(self) -> bool:
        """Whether improvements that nobody has accepted fail, too."""
        return self.invocation.strict

    @functools.cached_property
    def _by_id(self) -> dict[str, CaseVerdict]:
        return {case.id: case for case in self.cases}

    def verdict_of(self, case: str) -> CaseVerdict:
        """Return the verdict on a case. Raises `KeyError` for a case that was not judged."""
        return self._by_id[case]

    @property
    def counts(self) -> dict[Verdict, int]:
        """The number of cases with each verdict that occurs."""
        counted = Counter(case.verdict for case in self.cases)
        return {verdict: counted[verdict] for verdict in verdicts.VERDICTS if counted[verdict]}

    @functools.cached_property
    def repeating(self) -> frozenset[str]:
        """The cases of which only the first seed trained in full, as it repeats another run."""
        return frozenset(name for name, one in self.observed.items() if one.record.is_repeat)

    @property
    def failing_verdicts(self) -> frozenset[Verdict]:
        """The verdicts that make the exit code 1."""
        return verdicts.FAILING | verdicts.UNACCEPTED if self.strict else verdicts.FAILING

    @property
    def exit_code(self) -> Literal[0, 1, 3]:
        """1 if a case fails, also by strictness; else 3 if the comparison is incomplete; else 0."""
        return 1 if self.failing else self.lenient_exit_code

    @property
    def lenient_exit_code(self) -> Literal[0, 1, 3]:
        """The exit code without strictness."""
        found = self.counts.keys()
        if found & verdicts.FAILING:
            return 1
        if found & verdicts.INCOMPLETE or not self.complete or not found:
            return 3
        return 0

    @property
    def unaccepted(self) -> tuple[CaseVerdict, ...]:
        """The cases that are better than their baseline."""
        return tuple(case for case in self.cases if case.verdict in verdicts.UNACCEPTED)

    @property
    def remarked(self) -> tuple[CaseVerdict, ...]:
        """The cases with a remark that fails a strict run."""
        return tuple(case for case in self.cases if case.is_remarked)

    @property
    def failing(self) -> tuple[CaseVerdict, ...]:
        """The cases that make the exit code 1, also by strictness."""
        return tuple(case for case in self.cases if self._fails(case))

    @property
    def red(self) -> tuple[CaseVerdict, ...]:
        """The cases whose tests fail: failing, or not compared."""
        return tuple(
            case for case in self.cases if case.verdict in verdicts.INCOMPLETE or self._fails(case)
        )

    def _fails(self, case: CaseVerdict) -> bool:
        return case.verdict in self.failing_verdicts or (self.strict and case.is_remarked)
