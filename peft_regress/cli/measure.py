"""The command `peft-regress measure`."""

import shlex
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from peft_regress.catalogue.matrix import select_cases
from peft_regress.catalogue.sources import require_sources
from peft_regress.cli import options
from peft_regress.report.terminal import say
from peft_regress.runner.measuring import MeasuringSetup, measure_cases, save_run
from peft_regress.text import count_of


@options.command(
    "measure",
    "peft-regress measure --save runs/new.json",
    "peft-regress measure --cases 'shift/*/resnet18' --save runs/new.json",
    "peft-regress measure --on tcp://10.0.0.5:8786 --save runs/new.json",
)
@options.cases_option()
@options.matrix_option
@options.file_option(
    "--save",
    required=True,
    help_text="Write the run to this file; a journal beside it keeps each record as it is made.",
)
@options.measuring_options
def command(
    *, cases: str | None, matrix: str, save: Path, ready: AbstractContextManager[MeasuringSetup]
) -> int:
    """Measure cases and write their run, without pytest and without a verdict.

    The run is like that of `pytest --regress-save`, but for times: `compare` judges it and
    `accept` stores it. The exit code is 3 if a case has no record.
    """
    chosen = select_cases(cases, matrix=matrix)
    with ready as setup:
        require_sources(setup.baselines, chosen)
        run = measure_cases(
            chosen,
            python=Path(sys.executable),
            setup=setup,
            narrowed_by=[] if cases is None else [f"--cases {cases}"],
            matrix=matrix,
            save=save,
            on_record=options.record_printer("", len(chosen), pool=setup.pool),
        )
        save_run(save, run)
    wrong = sum(record.status == "error" for record in run)
    failed = f", {wrong} in error" if wrong else ""
    say(f"{shlex.quote(str(save))}: {count_of(len(run.cases), 'case')}{failed}")
    return 0 if all(case.id in run.cases for case in chosen) else 3
