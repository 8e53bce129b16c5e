"""What is to be measured in one environment, and what came of it, wherever workers run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import UNSET

from peft_regress.cases import Case
from peft_regress.catalogue.budget_file import BudgetFile
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.gate.repeats import KnownCurve
from peft_regress.metrics import KNOWN
from peft_regress.overlay.pip import Planned
from peft_regress.runs.schema import SCHEMA_VERSION, Machine, Record, Run, Selection, with_budget

if TYPE_CHECKING:
    from peft_regress.upgrades.measuring import MeasuringSetup


@dataclass(frozen=True, kw_only=True)
class Order:
    """Cases to measure in one environment."""

    cases: tuple[Case, ...]
    python: Path
    """The interpreter of the environment on this machine."""
    planned: tuple[Planned, ...] = ()
    """What the environment has over the running one, so that another machine can make its like."""
    trains: bool = True
    """Without, a record has only the costs of a step."""
    keep_adapters: Path | None = None
    known: Mapping[str, list[KnownCurve]] = field(default_factory=dict)
    """What need not be trained again, by case."""


class Engine(Protocol):
    """Something else than this machine's workers that measures."""

    def measure(
        self,
        order: Order,
        *,
        setup: MeasuringSetup,
        results: Results,
        on_record: Callable[[Record], None],
    ) -> None:
        """Add what was measured to the results; a case that was lost gets no record."""

    def stop(self) -> None:
        """End every order that is being measured, in whichever thread."""

    @property
    def status(self) -> str:
        """How many cases are being measured, and the like, to show beside the progress."""


@dataclass
class Results:
    """What was measured so far."""

    records: dict[str, Record] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    """Where each case was measured, by case."""
    direct: Mapping[str, str] = field(default_factory=dict)
    """The digests of packages that came from no index."""
    environment: dict[str, str] = field(default_factory=dict)
    """The packages of every case."""
    imported: dict[str, dict[str, str]] = field(default_factory=dict)
    """The packages that a case uses beyond the requirements of this package, by case."""
    budgets: BudgetFile = field(default_factory=BudgetFile)
    """Those of cases that state none themselves."""

    def run(self, *, matrix: str, narrowed_by: Sequence[str]) -> Run:
        """Return the run, of the machine that measured most; other machines stand with records."""
        machines = Counter(self.machines.values())
        most = max(machines, key=lambda machine: (machines[machine], machine.digest))
        imported = {name: used for each in self.imported.values() for name, used in each.items()}
        records = {
            name: with_budget(record, self.budgets.budget_of)
            for name, record in sorted(self.records.items())
        }
        left_out = {case.id for case in matrix_cases(matrix)} - self.records.keys()
        return Run(
            schema_version=SCHEMA_VERSION,
            environment=dict(sorted({**imported, **self.environment}.items())),
            direct=dict(self.direct),
            machine=most,
            selection=Selection(
                complete=not left_out,
                narrowed_by=list(narrowed_by) if left_out else [],
                not_selected=sorted(left_out),
            ),
            cases={
                name: _on_machine(record, self.machines[name], most)
                for name, record in records.items()
            },
            metrics_known=sorted(KNOWN),
        )


def _on_machine(record: Record, machine: Machine, usual: Machine) -> Record:
    """Return a record that says where it was measured, unless that is where most were."""
    here = UNSET if machine == usual else machine
    return record if record.machine == here else msgspec.structs.replace(record, machine=here)


def groups_of(cases: Sequence[Case]) -> list[list[Case]]:
    """Return the cases in groups that share a cost profile, ordered by architecture."""

    def key(case: Case) -> tuple[str, str, int]:
        return case.architecture, case.method, case.rank or 0

    return [list(group) for _, group in groupby(sorted(cases, key=key), key=key)]
