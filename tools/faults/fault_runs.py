"""Measure the cases of a fault in a separate process, and judge them as the gate does."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from fault_catalogue import FAULTS
from fault_catalogue.injection import BrokenFaultError, injected

from peft_regress.baselines.named import load_references
from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.gate.judge import judge_case
from peft_regress.gate.verdicts import FAILING, UNACCEPTED, CaseVerdict, Observation, Reason
from peft_regress.measure.known import Known
from peft_regress.runs.environment import describe_machine, installed_packages
from peft_regress.runs.schema import Computation, Ledger, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fault_catalogue import Fault

__all__ = [
    "BASELINES",
    "Judge",
    "Outcome",
    "Run",
    "computations_of",
    "control_complaints",
    "judged",
    "measure_all",
]

_FOLDER: Final = Path(__file__).resolve().parent
BASELINES: Final = _FOLDER.parents[1] / "baselines"
WORKERS: Final = 2
_NONE: Final[dict[str, Computation]] = {}
_LONGEST_SECONDS: Final = 180


@dataclass(frozen=True, kw_only=True)
class Run:
    """The records of some cases, or why none of them counts."""

    records: tuple[Record, ...] = ()
    """Of full measurements."""
    certified: tuple[Record, ...] = ()
    """Of the cases whose training the certificate calls that of the control."""
    complaint: str | None = None


Certificate = Literal["different", "same", "none"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the gate judged a fault."""

    fault: Fault
    state: Literal["caught", "strict", "uncaught", "broken"]
    """`strict`: the gate sees an improvement, which only `--regress-strict` fails."""
    reasons: tuple[Reason, ...] = ()
    """What fails the run, or what looks like an improvement; empty if uncaught or broken."""
    remark: str = ""
    certificate: Certificate = "none"
    """What the certificate says of the training under the fault and without it; none if they cannot
    be certified."""
    fooled: bool = False
    """Whether the certificate says the same, and a quick run does not see what a full one sees."""

    @property
    def complaint(self) -> str | None:
        """Say what is wrong with the gate or with the catalogue; None if nothing is."""
        if self.fooled:
            return "fools the certificate"
        if self.state in {"caught", "strict"}:
            return "is seen, but the catalogue says unseen" if self.fault.unseen else None
        return None if self.state == "uncaught" and self.fault.unseen else self.state


# --- Measuring ------------------------------------------------------------------------------------


def measure(
    fault: Fault | None, cases: Sequence[str], known: Mapping[str, Computation] = _NONE
) -> Run:
    """Measure cases under a fault, or without any, in this process.

    known: what the cases compute without a fault. One that the certificate calls the same is
    measured in full, too.
    """
    try:
        if fault is None:
            return Run(records=tuple(_record(name) for name in cases))
        records, certified = [], []
        with injected(fault) as injection:
            for name in cases:
                found = _record(name, known.get(name))
                if found.is_certified:
                    certified.append(found)
                    found = _record(name)
                records.append(found)
        complaint = injection.complaint()
        return Run(records=tuple(records), certified=tuple(certified), complaint=complaint)
    except BrokenFaultError as error:
        return Run(complaint=str(error))


def _record(name: str, computation: Computation | None = None) -> Record:
    from peft_regress.measure import ProfileCache, Recipe
    from peft_regress.measure import measure as measure_case

    known = None if computation is None else Known(computation=computation, run_name="control")
    recipe = Recipe.of(parse_case_id(name), BASELINES)
    found = measure_case(recipe, profiles=ProfileCache(), timed=False, known=known).record
    # The gate reads no ledger, and it is most of a record.
    return msgspec.structs.replace(found, ledger=Ledger())


def computations_of(run: Run) -> dict[str, Computation]:
    """Return what certifies the trainings of a run."""
    return {
        record.case.id: record.computation
        for record in run.records
        if record.computation is not msgspec.UNSET
    }


def _measure_named(name: str | None, cases: Sequence[str], known: Mapping[str, Computation]) -> Run:
    return measure(None if name is None else FAULTS[name], cases, known)


def measure_all(
    jobs: Iterable[tuple[Fault | None, Sequence[str]]],
    known: Mapping[str, Computation] = _NONE,
) -> Iterator[tuple[Fault | None, Run]]:
    """Measure each job in its own process, two at a time; yield the runs in the jobs' order."""
    os.environ["OMP_NUM_THREADS"] = "1"
    # The forking server does not inherit sys.path.
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_FOLDER), path)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fault_imports"])
    with context.Pool(WORKERS, maxtasksperchild=1) as pool:
        waiting = [
            (fault, pool.apply_async(_measure_named, (fault and fault.name, tuple(cases), known)))
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
        """Return the verdict on one case, with its reasons.

        Of a certified one as if its reference were the control.
        """
        observed = Observation(
            record=record,
            environment=self._environment,
            machine=self._machine,
            run_name="this run",
        )
        reference = self._references.get(record.case.id)
        if reference is not None and record.is_certified:
            computed = msgspec.structs.replace(reference.record, computation=record.computation)
            reference = replace(reference, record=computed)
        return judge_case(record.case.id, reference, observed)


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
    says, fooled = _certificate(run), _is_fooled(run, verdicts, judge)
    failing = tuple(reason for reason in reasons if reason.verdict in FAILING)
    if failing:
        return Outcome(
            fault=fault, state="caught", reasons=failing, certificate=says, fooled=fooled
        )
    better = tuple(reason for reason in reasons if reason.verdict in UNACCEPTED)
    if better:
        return Outcome(fault=fault, state="strict", reasons=better, certificate=says, fooled=fooled)
    remark = fault.unseen or "nothing beyond its bound"
    return Outcome(fault=fault, state="uncaught", remark=remark, certificate=says, fooled=fooled)


def _certificate(run: Run) -> Certificate:
    if run.certified:
        return "same"
    return "different" if computations_of(run) else "none"


def _is_fooled(run: Run, verdicts: Sequence[CaseVerdict], judge: Judge) -> bool:
    """Return whether a certified case looks well although its full measurement does not."""
    well = {"unchanged", "known_defect"}
    full = {verdict.id: verdict.verdict not in well for verdict in verdicts}
    return any(full[record.case.id] and judge(record).verdict in well for record in run.certified)


def control_complaints(run: Run, judge: Judge) -> list[str]:
    """Say what the gate sees without any fault: it must see nothing."""
    if run.complaint is not None:
        return [run.complaint]
    return [
        f"{verdict.id}: {verdict.verdict}: {', '.join(reason.metric for reason in verdict.reasons)}"
        for verdict in map(judge, run.records)
        if verdict.verdict not in {"unchanged", "known_defect"}
    ]
