"""The command `peft-regress history`."""

from pathlib import Path

import click

from peft_regress import report
from peft_regress.baselines.history import read_entries, select_moves
from peft_regress.cli import options


@options.command(
    "history",
    "peft-regress history",
    "peft-regress history --cases 'shift/lora-r4/*' --metric 'peak*'",
)
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@options.cases_option(default="*")
@click.option("--metric", metavar="GLOB", help="Only metrics that match; with all their values.")
@options.format_option
@options.baselines_option
def command(
    runs: tuple[str, ...], cases: str, metric: str | None, *, output: str, baselines: Path
) -> None:
    """Show what moved beyond its bound over the stored entries.

    It also shows which packages changed with it. The runs RUN, each a run file or a folder of
    shards, come after the entries.
    """
    entries = read_entries(baselines, runs)
    moves = select_moves(entries, case=cases, metric="*" if metric is None else metric)
    document = report.history_document(moves, with_values=metric is not None)
    options.print_result(output, report.encode_history(moves), document)
