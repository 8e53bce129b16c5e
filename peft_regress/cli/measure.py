"""The command `peft-regress measure`."""

from __future__ import annotations

import itertools
import shlex
import sys
from pathlib import Path

import click

from peft_regress.baselines.named_runs import check_output
from peft_regress.baselines.run_adapters import adapters_of_run, add_adapters
from peft_regress.catalogue.matrix import select_cases
from peft_regress.catalogue.sources import require_sources
from peft_regress.cli import options
from peft_regress.cli.progress import record_printer
from peft_regress.report.terminal import say
from peft_regress.runs.journal import run_file_of
from peft_regress.runs.schema import Record, Run
from peft_regress.text import count_of
from peft_regress.upgrades.measuring import MeasuringSetup, measure_cases, save_run

_INCOMPLETE_EXIT = 3


@click.command(
    "measure",
    epilog=options.examples(
        "peft-regress measure --save runs/new.json",
        "peft-regress measure --cases 'shift/*/resnet18' --save runs/new.json",
        "peft-regress measure --on tcp://10.0.0.5:8786 --save runs/new.json",
    ),
)
@options.cases_option()
@options.matrix_option
@click.option(
    "--save",
    type=options.output_file,
    metavar="FILE",
    required=True,
    help="Write the run to this file; a journal beside it keeps each record as it is made.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Take what an earlier try measured in the same packages and commit, by its run file or "
    "journal.",
)
@options.on_option("Measure")
@options.jobs_option("Measure this many cases at once (default: one per core).")
@options.limit_option("--time-limit", "How long one case may take.")
@options.baselines_option
@click.pass_context
def command(  # noqa: PLR0913  (options)
    context: click.Context,
    /,
    *,
    cases: str | None,
    matrix: str,
    save: Path,
    resume: Path | None,
    on: str,
    jobs: int,
    time_limit: int,
    baselines: Path,
) -> None:
    """Measure cases and write their run, without pytest and without a verdict.

    The run is like that of `pytest --regress-save`, but for times: `compare` judges it and
    `accept` stores it. The exit code is 3 if a case has no record.
    """
    check_output(save, "--save", storage=baselines)
    chosen = select_cases(cases, matrix=matrix)
    require_sources(baselines, chosen)
    setup = MeasuringSetup(baselines=baselines, jobs=jobs, time_limit=time_limit)
    with options.ready_to_measure(setup, on, save=save, resume=resume) as ready:
        if resume is not None:
            add_adapters(run_file_of(resume), save)
        print_record, done = record_printer(ready.pool), itertools.count(1)

        def on_record(record: Record) -> None:
            print_record("", record, next(done), len(chosen))

        run = measure_cases(
            chosen,
            python=Path(sys.executable),
            setup=ready,
            narrowed_by=[] if cases is None else [f"--cases {cases}"],
            matrix=matrix,
            keep_adapters=adapters_of_run(save),
            on_record=on_record,
            on_interrupt=lambda run: save_run(save, run),
        )
        save_run(save, run)
    say(_outcome(run, save))
    lacking = [case.id for case in chosen if case.id not in run.cases]
    context.exit(_INCOMPLETE_EXIT if lacking else 0)


def _outcome(run: Run, save: Path) -> str:
    wrong = [record for record in run if record.status == "error"]
    failed = f", {len(wrong)} in error" if wrong else ""
    return f"{shlex.quote(str(save))}: {count_of(len(run.cases), 'case')}{failed}"
