"""Train a case in float64 on both sides of an upgrade, from one start.

A release that draws other weights or batches may compute something else besides, which that hides.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec.structs import replace

from peft_regress.cases import Case
from peft_regress.gate.inputs import telling_difference
from peft_regress.gate.referees import departure
from peft_regress.gate.verdicts import Observation
from peft_regress.runner.measurer import (
    MEASURER,
    CaseRequest,
    Refereed,
    StartRequest,
    project_folder,
)
from peft_regress.runner.measuring import LIBRARIES, MeasuringSetup
from peft_regress.runs.schema import Record, Referee
from peft_regress.workers.pool import Environment, Seat, UnusableEnvironmentError
from peft_regress.workers.worker import WorkerError

_Side = tuple[Environment, Seat]


def drawn_otherwise(old: Mapping[str, Observation], new: Mapping[str, Record]) -> list[Case]:
    """Return the cases of which a candidate draws other weights or batches."""
    pairs = ((old[name].record, record) for name, record in new.items() if name in old)
    return [after.case for before, after in pairs if telling_difference(before, after)]


def from_one_start(
    cases: list[Case], base: Path, candidate: Path, setup: MeasuringSetup
) -> Iterator[str]:
    """Yield of each case in words whether both sides compute the same from the base's start.

    base, candidate: the interpreters of both sides. What is kept of a start is gone at the end.
    """
    with contextlib.ExitStack() as stack:
        prefix = "peft-regress-start-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        sides = [
            (
                Environment(python=python, libraries=LIBRARIES),
                Seat(folder, time_limit=setup.time_limit),
            )
            for python in (base, candidate)
        ]
        for _, seat in sides:
            stack.callback(seat.close)
        for at, case in enumerate(cases):
            baselines = str(setup.baselines.absolute())
            asked = StartRequest(
                case=CaseRequest(case=case.id, baselines=baselines, folder=project_folder()),
                start=str(folder / str(at)),
            )
            yield f"{case.id}, from the base's weights in float64, {_said(asked, *sides)}"


def _said(asked: StartRequest, base: _Side, candidate: _Side) -> str:
    theirs = _trained(asked, *base)
    if isinstance(theirs, str):
        return f"cannot be trained: {theirs}"
    ours = _trained(replace(asked, known=theirs), *candidate)
    if isinstance(ours, str):
        return f"cannot be trained by the candidate: {ours}"
    found = departure(theirs, ours)
    if found is None:
        return "computes the same: only what is drawn or loaded changed"
    return (
        f"computes something else too, from step {found.step} on: {found.what} {found.new!r}, "
        f"was {found.old!r}"
    )


def _trained(asked: StartRequest, environment: Environment, seat: Seat) -> Referee | str:
    try:
        return seat.worker(environment).ask(f"{MEASURER}.refereed", asked, Refereed).referee
    except (WorkerError, UnusableEnvironmentError) as error:
        return str(error)
