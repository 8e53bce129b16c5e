"""Measure the cases of a fault in a separate process, and judge them as the gate does."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from fault_catalogue import FAULTS
from fault_catalogue.injection import BrokenFaultError, injected

from peft_regress.baselines.named import load_references
from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.gate.judge import judge_case
from peft_regress.gate.verdicts import FAILING, UNACCEPTED, CaseVerdict, Observation, Reason
from peft_regress.runs.environment import describe_machine, installed_packages
from peft_regress.runs.schema import Ledger, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fault_catalogue import Fault

__all__ = ["BASELINES", "Judge", "Outcome", "Run", "control_complaints", "judged", "measure_all"]

_FOLDER: Final = Path(__file__).resolve().parent
BASELINES: Final = _FOLDER.parents[1] / "baselines"
WORKERS: Final = 2
_LONGEST_SECONDS: Final = 180


@dataclass(frozen=True, kw_only=True)
class Run:
    """The records of some cases, or why none of them counts."""

    records: tuple[Record, ...] = ()
    complaint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the gate judged a fault."""

    fault: Fault
    state: Literal["caught", "strict", "uncaught", "broken"]
    """`strict`: the gate sees an improvement, which only `--regress-strict` fails."""
    reasons: tuple[Reason, ...] = ()
    """What fails the run, or what looks like an improvement; empty if uncaught or broken."""
    remark: str = ""

    @property
    def complaint(self) -> str | None:
        """Say what is wrong with the gate or with the catalogue; None if nothing is."""
        if self.state in {"caught", "strict"}:
            return "is seen, but the catalogue says unseen" if self.fault.unseen else None
        return None if self.state == "uncaught" and self.fault.unseen else self.state


# --- Measuring ------------------------------------------------------------------------------------


def measure(fault: Fault | None, cases: Sequence[str]) -> Run:
    """Measure cases under a fault, or without any, in this process."""
    try:
        if fault is None:
            return Run(records=_records(cases))
        with injected(fault) as injection:
            records = _records(cases)
        return Run(records=records, complaint=injection.complaint())
    except BrokenFaultError as error:
        return Run(complaint=str(error))


def _records(cases: Sequence[str]) -> tuple[Record, ...]:
    from peft_regress.measure import ProfileCache, Recipe
    from peft_regress.measure import measure as measure_case

    profiles = ProfileCache()
    measured = [
        measure_case(Recipe.of(parse_case_id(name), BASELINES), profiles=profiles, timed=False)
        for name in cases
    ]
    # The gate reads no ledger, and it is most of a record.
    return tuple(msgspec.structs.replace(one.record, ledger=Ledger()) for one in measured)


def _measure_named(name: str | None, cases: Sequence[str]) -> Run:
    return measure(None if name is None else FAULTS[name], cases)


def measure_all(
    jobs: Iterable[tuple[Fault | None, Sequence[str]]],
) -> Iterator[tuple[Fault | None, Run]]:
    """Measure each job in its own process, two at a time; yield the runs in the jobs' order."""
    os.environ["OMP_NUM_THREADS"] = "1"
    # The forking server does not inherit sys.path.
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_FOLDER), known)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fault_imports"])
    with context.Pool(WORKERS, maxtasksperchild=1) as pool:
        waiting = [
            (fault, pool.apply_async(_measure_named, (fault and fault.name, tuple(cases))))
            for fault, cases in jobs
        ]
        answered = True
        for fault, result in waiting:
            try:
                yield fault, result.get(timeout=_LONGEST_SECONDS)
            except multiprocessing.TimeoutError:
                complaint = f"gave no answer within {_LONGEST_SECONDS} s"
                answered = False
                yield fault, Run(complaint=complaint)
        if answered:
            # Otherwise leaving the block ends the processes.
            pool.close()
            pool.join()


# --- Judging --------------------------------------------------------------------------------------


class Judge:
    """Judge records by the stored baselines, as the gate does in this environment."""

    def __init__(self, references: Mapping[str, Observation] | None = None) -> None:
        self._references = load_references(BASELINES, None) if references is None else references
        self._environment = installed_packages()
        self._machine = describe_machine()

    def __call__(self, record: Record) -> CaseVerdict:
        """Return the verdict on one case, with its reasons."""
        observed = Observation(
            record=record,
            environment=self._environment,
            machine=self._machine,
            run_name="this run",
        )
        return judge_case(record.case.id, self._references.get(record.case.id), observed)


def judged(fault: Fault, run: Run, judge: Judge) -> Outcome:
    """Say whether the gate fails under a fault, and which signals saw it."""
    if run.complaint is not None:
        return Outcome(fault=fault, state="broken", remark=run.complaint)
    verdicts = [judge(record) for record in run.records]
    for record, verdict in zip(run.records, verdicts, strict=True):
        if verdict.verdict == "newly_failing" and not fault.stops:
            remark = f"stopped unexpectedly: {verdict.id} is {record.status_text}"
            return Outcome(fault=fault, state="broken", remark=remark)
    reasons = [reason for verdict in verdicts for reason in verdict.reasons]
    failing = tuple(reason for reason in reasons if reason.verdict in FAILING)
    if failing:
        return Outcome(fault=fault, state="caught", reasons=failing)
    better = tuple(reason for reason in reasons if reason.verdict in UNACCEPTED)
    if better:
        return Outcome(fault=fault, state="strict", reasons=better)
    remark = fault.unseen or "nothing beyond its bound"
    return Outcome(fault=fault, state="uncaught", remark=remark)


def control_complaints(run: Run, judge: Judge) -> list[str]:
    """Say what the gate sees without any fault: it must see nothing."""
    if run.complaint is not None:
        return [run.complaint]
    return [
        f"{verdict.id}: {verdict.verdict}: {', '.join(reason.metric for reason in verdict.reasons)}"
        for verdict in map(judge, run.records)
        if verdict.verdict not in {"unchanged", "known_defect"}
    ]
