"""The command `peft-regress time`: thin, no logic of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from peft_regress.cli.options import baselines_option, format_option, print_json
from peft_regress.environments.timing.time_cases import TIME_LIMIT_SECONDS
from peft_regress.report.pace import Pace
from peft_regress.report.terminal import print_progress, show

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peft_regress.gate.paired_times import CaseTimes

__all__ = ["time_command"]


@click.command("time")
@click.argument("base")
@click.argument("candidate")
@click.option(
    "--cases", "pattern", metavar="GLOB", required=True, help="Ids, e.g. '*-r4/resnet18'."
)
@click.option("--matrix", default="default", show_default=True, help="Or `extended`, or your own.")
@click.option("--pairs", type=click.IntRange(1, 10000), help="Pairs of blocks a case.")
@click.option(
    "--time-limit",
    type=click.IntRange(1, 86400),
    default=TIME_LIMIT_SECONDS,
    show_default=True,
    help="Seconds that a block of steps, or the start of a worker, may take.",
)
@format_option
@baselines_option
@click.pass_context
def time_command(  # noqa: PLR0913  (arguments and options)
    context: click.Context,
    base: str,
    candidate: str,
    pattern: str,
    matrix: str,
    *,
    pairs: int | None,
    time_limit: int,
    output: str,
    baselines: Path,
) -> None:
    """Tell whether a training step is slower in CANDIDATE than in BASE.

    Both are Python interpreters, such as venv/bin/python, with peft-regress installed. They take
    turns on this machine; the exit code is 1 where a case is slower, 3 where that is not known.
    """
    from peft_regress import report
    from peft_regress.catalogue.matrix import select_cases
    from peft_regress.environments.timing import time_cases

    cases = select_cases(pattern, matrix=matrix)
    run = time_cases(
        cases,
        base=base,
        candidate=candidate,
        baselines=baselines,
        pairs=pairs,
        time_limit=time_limit,
        tell=_teller(len(cases)),
    )
    if output == "json":
        print_json(report.encode_times(run))
    else:
        show(report.times_document(run), output)
    context.exit(run.exit_code)


def _teller(count: int) -> Callable[[CaseTimes], None]:
    """Return what prints a line a case on standard error."""
    done = 0
    pace = Pace()

    def told(case: CaseTimes) -> None:
        nonlocal done
        done += 1
        left = pace.left(done, count, time.monotonic())
        print_progress(f"[{done}/{count}] {case.id}: {case.verdict}{left}")

    return told
