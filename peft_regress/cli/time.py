"""The command `peft-regress time`."""

import itertools
from typing import Any

import click

from peft_regress import report
from peft_regress.catalogue.matrix import select_cases
from peft_regress.cli import options
from peft_regress.gate.paired_times import CaseTimes
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.project.project import current_project
from peft_regress.report.terminal import print_progress
from peft_regress.upgrades.timing import TIME_LIMIT_SECONDS, time_cases


@options.command("time", "peft-regress time old/bin/python new/bin/python --cases '*-r4/resnet18'")
@click.argument("base")
@click.argument("candidate")
@options.cases_option("Time cases whose id matches, such as '*-r4/resnet18'.", required=True)
@options.matrix_option
@options.counted_option(
    "--pairs",
    "N",
    DEFAULT_POLICY.time_pairs,
    "Time this many pairs of blocks per case.",
    most=10000,
)
@options.limit_option(
    "--time-limit",
    "How long a block of steps, or the start of a worker, may take.",
    seconds=TIME_LIMIT_SECONDS,
)
@options.format_option
@options.baselines_option
def command(cases: str, matrix: str, *, output: str, **settings: Any) -> int:
    """Test whether a training step is slower in CANDIDATE than in BASE.

    Both are Python interpreters with peft-regress installed, such as venv/bin/python. They take
    turns on this machine. The exit code is 1 if a case is slower, 3 if a case stays undecided.
    """
    chosen = select_cases(cases, matrix=matrix)
    done = itertools.count(1)

    def print_case(case: CaseTimes) -> None:
        print_progress(f"[{next(done)}/{len(chosen)}] {case.id}: {case.verdict}")

    run = time_cases(chosen, project=current_project(), on_result=print_case, **settings)
    options.print_result(output, report.encode_times(run), report.times_document(run))
    return run.exit_code
