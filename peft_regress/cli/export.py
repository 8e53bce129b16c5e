"""The command `peft-regress export`."""

from __future__ import annotations

from pathlib import Path

import click

from peft_regress.baselines.named_runs import check_output, find_input
from peft_regress.cli.options import (
    baselines_option,
    cases_option,
    examples,
    output_file,
)
from peft_regress.files import write_atomic
from peft_regress.report.csv_table import csv_table, narrow
from peft_regress.report.terminal import say, standard_output


@click.command(
    "export",
    epilog=examples(
        "peft-regress export runs/bench.json --output numbers.csv",
        "peft-regress export 0017 --cases 'shift/*' --metric 'peak*'",
    ),
)
@click.argument("run")
@click.option(
    "--output", type=output_file, metavar="FILE", help="Write to this file, not to the terminal."
)
@cases_option(default="*")
@click.option(
    "--metric", default="*", metavar="GLOB", help="Only metrics that match, such as 'peak*'."
)
@baselines_option
def command(run: str, *, output: Path | None, cases: str, metric: str, baselines: Path) -> None:
    """Write the numbers of RUN as CSV, for other tools.

    RUN is a run file, a folder of shards, or an entry of the storage.
    """
    found = find_input(baselines, run)
    if output is not None:
        check_output(output, "--output", storage=baselines, reads=[found.path])
    text = csv_table(narrow(found.read().run, cases=cases, metric=metric))
    if output is None:
        click.echo(text.encode(), file=standard_output(), nl=False)
        return
    write_atomic(output, text.encode())
    say(f"wrote {output}", err=True)
