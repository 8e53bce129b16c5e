"""What an earlier try measured of an order, for an engine that measures elsewhere.

Definitions are those of this machine's environment: a worker here looks up the cases.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from peft_regress.overlay.pip import direct_sources
from peft_regress.runs.journal import Header, KeptRecord
from peft_regress.upgrades.measuring import (
    WORKER_MODULE,
    MeasuringSetup,
    UnusableEnvironmentError,
)
from peft_regress.upgrades.messages import Import, Imported
from peft_regress.upgrades.orders import Order
from peft_regress.workers.environment_variables import variables
from peft_regress.workers.process import InterpreterError, WorkerError, WorkerProcess


def taken_records(order: Order, setup: MeasuringSetup) -> dict[str, KeptRecord]:
    """Return what may be taken in place of measuring, by case; records name their machines.

    Raises `UnusableEnvironmentError` if the environment cannot be used here.
    """
    keeper = setup.keeper
    known = [case for case in order.cases if keeper is not None and keeper.has(case.id)]
    if keeper is None or not known:
        return {}
    found = {}
    with tempfile.TemporaryDirectory(prefix="peft-regress-", ignore_cleanup_errors=True) as folder:
        try:
            with WorkerProcess(
                str(order.python),
                WORKER_MODULE,
                time_limit=setup.time_limit,
                folder=Path(folder),
                environment=variables(),
            ) as worker:
                machine = worker.call(Import(modules=[]), Imported).machine
                direct = direct_sources(order.planned)
                here = Header.here(worker.packages, machine, direct=direct)
                for case in known:
                    kept = keeper.take(
                        case.id,
                        worker.prepare(case, baselines=setup.baselines),
                        here,
                        trains=order.trains,
                        python=order.python,
                        known=order.known.get(case.id, ()),
                        any_machine=True,
                    )
                    if kept is not None:
                        found[case.id] = kept
        except (InterpreterError, WorkerError) as error:
            raise UnusableEnvironmentError(str(error)) from None
    return found
