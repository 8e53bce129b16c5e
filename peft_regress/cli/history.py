"""The command `peft-regress history`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from peft_regress import report
from peft_regress.baselines.history import by_release, read_entries, select_histories
from peft_regress.cli.options import (
    baselines_option,
    cases_option,
    examples,
    format_option,
    print_json,
)
from peft_regress.report.terminal import show

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "history", epilog=examples("peft-regress history --cases 'shift/lora-r4/*' --metric 'peak*'")
)
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@cases_option(default="*")
@click.option(
    "--metric", default="*", metavar="GLOB", help="Only metrics that match, such as 'peak*'."
)
@click.option("--all", "every_point", is_flag=True, help="Print every point, also unchanged ones.")
@click.option(
    "--by",
    "package",
    metavar="PACKAGE",
    help="Order by the releases of this package, not by entry.",
)
@format_option
@baselines_option
def command(  # noqa: PLR0913  (arguments and options)
    runs: tuple[str, ...],
    cases: str,
    metric: str,
    *,
    every_point: bool,
    package: str | None,
    output: str,
    baselines: Path,
) -> None:
    """Show how each metric changed over the stored entries.

    The runs RUN, each a run file or a folder of shards, come after the entries.
    """
    entries = read_entries(baselines, runs)
    if package is not None:
        entries = by_release(entries, package)
    found = select_histories(entries, case=cases, metric=metric)
    if output == "json":
        print_json(report.encode_history(found, every_point=every_point))
    else:
        show(report.history_document(found, every_point=every_point), output)
