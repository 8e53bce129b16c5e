"""The command `peft-regress accept`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import click

from peft_regress.baselines.adapters import choose_adapters, store_adapters
from peft_regress.baselines.entries import accept_run
from peft_regress.baselines.named import find_named
from peft_regress.baselines.references import retirable_cases
from peft_regress.cli.options import baselines_option, examples
from peft_regress.report import contents_line
from peft_regress.report.terminal import echo, say
from peft_regress.runs.run_file import read_run_file

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "accept",
    epilog=examples("peft-regress accept runs/bench.json --reason 'peft 0.21 frees activations'"),
)
@click.argument("run")
@click.option(
    "--reason", required=True, metavar="TEXT", help="Why the new numbers are right, in one line."
)
@click.option(
    "--history", is_flag=True, help="Store the run for `history` only: it judges nothing."
)
@click.option(
    "--retire",
    "patterns",
    multiple=True,
    metavar="GLOB",
    help="Expect these cases no longer: they were renamed or removed; may be repeated.",
)
@baselines_option
def command(
    run: str, reason: str, baselines: Path, patterns: tuple[str, ...], *, history: bool
) -> None:
    """Store RUN in the baseline storage, so that it judges later runs.

    RUN is a run file or a folder of shards.
    """
    source = find_named(baselines, run).path
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    retired = retirable_cases(baselines, patterns) if patterns else []
    adapters = [] if history else choose_adapters(source, baselines)
    stored = accept_run(
        source, root=baselines, reason=reason, date=date, history=history, retired=retired
    )
    say(f"stored {stored}")
    echo(contents_line(read_run_file(stored).run))
    if adapters:
        say(f"adapters stored: {' '.join(store_adapters(adapters, baselines))}")
    elif not history:
        say(f"no adapters stored: there are none beside {source}")
    if retired:
        say(f"{len(retired)} retired: {' '.join(retired)}")
