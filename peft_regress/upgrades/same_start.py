"""Train a case in float64 on both sides of an upgrade, from one start.

A release that draws other weights or batches may compute something else besides, which that hides.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from msgspec.structs import replace

from peft_regress.cases import Case
from peft_regress.gate.inputs import telling_difference
from peft_regress.gate.referees import departure, judged_steps
from peft_regress.gate.repeats import KnownCurve
from peft_regress.gate.verdicts import Observation
from peft_regress.runner.measurer import MEASURER, CaseRequest
from peft_regress.runner.measuring import LIBRARIES, MeasuringSetup
from peft_regress.runs.schema import Record, Referee
from peft_regress.workers.pool import Environment, Seat, UnusableEnvironmentError
from peft_regress.workers.worker import WorkerError

_Side: TypeAlias = tuple[Seat, Environment]
_START: Final = ("weights", "training batches")
"""The parts of a case's inputs that a start holds."""


def drawn_otherwise(old: Mapping[str, Observation], new: Mapping[str, Record]) -> list[Case]:
    """Return the cases of which a candidate draws other weights or training batches."""
    pairs = ((old[name].record, record) for name, record in new.items() if name in old)
    differences = ((after.case, telling_difference(before, after)) for before, after in pairs)
    return [case for case, found in differences if found and found.part in _START]


def from_one_start(
    cases: list[Case], base: Path, candidate: Path, setup: MeasuringSetup
) -> Iterator[str]:
    """Yield of each case in words whether both sides compute the same from the base's start.

    base, candidate: the interpreters of both sides. What is kept of a start is gone at the end.
    """
    with contextlib.ExitStack() as stack:
        made = tempfile.TemporaryDirectory(prefix="peft-regress-start-")
        folder = Path(stack.enter_context(made))
        sides: list[_Side] = []
        for python in (base, candidate):
            seat = Seat(folder, time_limit=setup.time_limit)
            sides.append((seat, Environment(python=python, libraries=LIBRARIES)))
            stack.callback(seat.close)
        for at, case in enumerate(cases):
            asked = CaseRequest(
                case=case.id,
                baselines=str(setup.baselines.absolute()),
                folder=setup.project.folder,
                start=str(folder / str(at)),
            )
            try:
                said = _compared(asked, *sides)
            except (WorkerError, UnusableEnvironmentError) as error:
                said = f"cannot be trained: {error}"
                for seat, _ in sides:  # one may still be at it
                    seat.close()
            yield f"{case.id}, from the base's weights in float64, {said}"


def _compared(asked: CaseRequest, base: _Side, candidate: _Side) -> str:
    theirs = _trained(asked, base)
    known = KnownCurve(curve=None, run_name="the base", referee=theirs)
    found = departure(theirs, _trained(replace(asked, known=[known]), candidate))
    if found is None:
        steps = f"{judged_steps(theirs)} of {len(theirs.losses)} steps"
        return f"computes the same in {steps}: only what is drawn or loaded changed"
    where = f"from step {found.step} on" if found.step else "in its evaluation"
    return f"computes something else too, {where}: {found.what} {found.new!r}, was {found.old!r}"


def _trained(asked: CaseRequest, side: _Side) -> Referee:
    seat, environment = side
    return seat.worker(environment).ask(f"{MEASURER}.refereed", asked, Referee)
