"""Measure the cases of faults as users run them, each in a process of its own, and judge them."""

import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from unittest.mock import patch

import msgspec

sys.path.append(str(Path(__file__).resolve().parents[1] / "studies"))

from fault_catalogue import FAULTS, Fault
from fault_catalogue.injection import BrokenFaultError, injected
from fault_catalogue.own_case import OWN_CASES
from variants import VARIANTS

from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.gate.judge import judge_case
from peft_regress.gate.repeats import KnownCurve, curves_of
from peft_regress.gate.verdicts import FAILING, UNACCEPTED, CaseVerdict, Observation, Reason
from peft_regress.invariants import KNOWN
from peft_regress.runs.environment import describe_machine, installed_packages
from peft_regress.runs.schema import Ledger, Record

_FOLDER: Final = Path(__file__).resolve().parent
_BASELINES: Final = _FOLDER.parents[1] / "baselines"
_WORKERS: Final = 2
_PRELOADED: Final = [
    *("peft", "peft.optimizers", "galore_torch", "torchvision"),
    *("peft_regress.measure.case", "fault_catalogue"),
]
"""What a measurement needs: each process is forked from one that has imported it."""
_NUMBERS: Final = {"fingerprint", "accuracy", "score"}
"""The kinds of metrics that rounding changes."""
_LONGEST_SECONDS: Final = 600


@dataclass(frozen=True, kw_only=True)
class Job:
    """A case to measure."""

    case: str
    fault: str | None = None
    """The fault to measure it under."""
    known: tuple[KnownCurve, ...] = ()
    """The curves of its reference; without one all seeds train in full."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The record of a case, or why there is none that counts."""

    record: Record | None = None
    complaint: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the gate judged a fault."""

    fault: Fault
    state: Literal["caught", "strict", "uncaught", "broken"]
    """`strict`: the gate sees an improvement or a remark, which only `--regress-strict` fails."""
    reasons: tuple[Reason, ...] = ()
    """What fails the run, or what looks like an improvement; empty if uncaught or broken."""
    remark: str = ""
    repeats: bool = False
    """Whether the first seed trained as without the fault, so that the others did not train."""

    @property
    def anywhere(self) -> tuple[Reason, ...]:
        """The reasons that are alike on each machine: rounding changes no cost, no invariant."""
        return tuple(one for one in self.reasons if not _is_rounded(one))


def _is_rounded(reason: Reason) -> bool:
    of_number = reason.kind == "metric" and reason.spec is not None and reason.spec.kind in _NUMBERS
    return of_number or reason.kind in {"curve", "evaluation"}


# --- Measuring ------------------------------------------------------------------------------------


def measure(job: Job) -> Run:
    """Measure a case in this process."""
    if job.fault is None:
        return Run(record=_record(job))
    try:
        with injected(FAULTS[job.fault]) as injection:
            record = _record(job)
    except BrokenFaultError as error:
        return Run(complaint=str(error))
    return Run(record=record, complaint=injection.complaint() or "")


def _record(job: Job) -> Record:
    from peft_regress.measure import ProfileCache, Recipe
    from peft_regress.measure import measure as measure_case

    case = OWN_CASES.get(job.case) or parse_case_id(job.case)
    recipe = Recipe.of(case, _BASELINES)
    how: dict[str, Any] = {
        "profiles": ProfileCache(),
        "timed": False,
        "keep_referee": True,
        "known": job.known,
    }
    found = measure_case(recipe, **how).record
    # The gate reads no ledger, and it is most of a record.
    return msgspec.structs.replace(found, ledger=Ledger(), machine=describe_machine())


def measure_all(jobs: Iterable[Job]) -> Iterator[Run]:
    """Measure each job in its own process, two at a time; yield the runs in the jobs' order."""
    os.environ["OMP_NUM_THREADS"] = "1"
    # The forking server does not inherit sys.path.
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_FOLDER), path)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with context.Pool(_WORKERS, maxtasksperchild=1) as pool:
        for result in [pool.apply_async(measure, (job,)) for job in jobs]:
            try:
                yield result.get(timeout=_LONGEST_SECONDS)
            except multiprocessing.TimeoutError:
                yield Run(complaint=f"gave no answer within {_LONGEST_SECONDS} s")


def measure_elsewhere(jobs: Iterable[Job]) -> Iterator[Run]:
    """Measure each job as `measure_all` does, on what the gate takes for another kind of machine.

    Torch reads the variables as it loads, so each worker starts from a process of its own.
    """
    context = multiprocessing.get_context("spawn")
    with (
        patch.dict(os.environ, VARIANTS["avx2"]),
        ProcessPoolExecutor(_WORKERS, mp_context=context) as workers,
    ):
        yield from workers.map(_measured_alone, jobs)


def _measured_alone(job: Job) -> Run:
    (run,) = measure_all([job])
    return run


# --- Judging --------------------------------------------------------------------------------------


class Judge:
    """Judge records by those of the same cases without a fault, as the gate does."""

    def __init__(self, references: Iterable[Record]) -> None:
        self._references = {one.case.id: _observed(one, "no fault") for one in references}

    def known(self, case: str) -> tuple[KnownCurve, ...]:
        """Return the curves that a case may repeat."""
        return tuple(curves_of(self._references[case]))

    def __call__(self, record: Record) -> CaseVerdict:
        """Return the verdict on a case, with its reasons."""
        name = record.case.id
        return judge_case(name, self._references[name], _observed(record, "this run"))


def _observed(record: Record, run_name: str) -> Observation:
    return Observation(
        record=record,
        environment=installed_packages(),
        machine=record.machine or describe_machine(),
        run_name=run_name,
        known=frozenset(KNOWN),
    )


def judged(fault: Fault, run: Run, judge: Judge) -> Outcome:
    """Say whether the gate fails under a fault, and which signals saw it."""
    record = run.record
    if record is None or run.complaint:
        return Outcome(fault=fault, state="broken", remark=run.complaint)
    verdict = judge(record)
    if verdict.verdict == "newly_failing" and not fault.stops:
        remark = f"stopped unexpectedly: {record.status_text}"
        return Outcome(fault=fault, state="broken", remark=remark)
    failing = tuple(one for one in verdict.reasons if one.verdict in FAILING)
    better = tuple(one for one in verdict.reasons if one.verdict in UNACCEPTED)
    remarks = ", ".join(one.subject for one in verdict.remarks if one.fails_strictly)
    return Outcome(
        fault=fault,
        state="caught" if failing else "strict" if better or remarks else "uncaught",
        reasons=failing or better,
        remark="" if failing or better else remarks or "nothing beyond its bound",
        repeats=record.is_repeat,
    )


def noise_of(case: str, run: Run, judge: Judge) -> str:
    """Say what the gate sees without a fault: here the case must also repeat the reference."""
    record = run.record
    if record is None:
        return f"{case}: {run.complaint}"
    verdict = judge(record)
    repeats = record.is_repeat or record.machine != describe_machine()
    if verdict.verdict in {"unchanged", "known_defect"} and repeats:
        return ""
    seen: Sequence[str] = [one.name for one in verdict.reasons]
    return f"{case}: {verdict.verdict}: {', '.join(seen) or 'another training'}"
