"""The command `peft-regress history`."""

from __future__ import annotations

from pathlib import Path

import click

from peft_regress import report
from peft_regress.baselines.history import (
    Moves,
    by_release,
    moved_histories,
    read_entries,
    select_histories,
    select_moves,
)
from peft_regress.catalogue.own_cases import usual_storage
from peft_regress.cli.options import (
    baselines_option,
    cases_option,
    examples,
    format_option,
    print_json,
)
from peft_regress.report.terminal import show
from peft_regress.report.verdict.next_steps import quoted


@click.command(
    "history",
    epilog=examples(
        "peft-regress history",
        "peft-regress history --moved --by peft --cases 'shift/dora-*'",
        "peft-regress history --cases 'shift/lora-r4/*' --metric 'peak*'",
    ),
)
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@cases_option()
@click.option("--metric", metavar="GLOB", help="Only metrics that match, such as 'peak*'.")
@click.option(
    "--moved",
    is_flag=True,
    help="Print only what moved beyond its bound, invariants too, and what changed with it.",
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
    cases: str | None,
    metric: str | None,
    *,
    moved: bool,
    every_point: bool,
    package: str | None,
    output: str,
    baselines: Path,
) -> None:
    """Show how each metric changed over the stored entries.

    The runs RUN, each a run file or a folder of shards, come after the entries. Without --cases,
    --metric, --moved and --all it shows the moves that tell most.
    """
    if moved and every_point:
        raise click.UsageError("--moved leaves out what --all asks for: choose one of them")
    entries = read_entries(baselines, runs)
    if package is not None:
        entries = by_release(entries, package)
    chosen = {
        "case": "*" if cases is None else cases,
        "metric": "*" if metric is None else metric,
    }
    is_overview = cases is None and metric is None and not every_point
    if moved:
        _show_moves(select_moves(entries, **chosen), output)
        return
    if is_overview and output != "json":
        typed = _typed(runs, package, baselines)
        show(report.overview_document(select_moves(entries), typed), output)
        return
    found = select_histories(entries, **chosen)
    if output == "json":
        print_json(report.encode_history(found, every_point=every_point))
    else:
        show(report.history_document(found, every_point=every_point), output)


def _show_moves(moves: Moves, output: str) -> None:
    if output == "json":
        lines = report.encode_history(moved_histories(moves))
        print_json(lines | report.encode_moves(moves))
    else:
        show(report.moves_document(moves), output)


def _typed(runs: tuple[str, ...], package: str | None, baselines: Path) -> str:
    """Return the command as it was typed, for others to add options to."""
    by = [] if package is None else ["--by", package]
    storage = [] if baselines == usual_storage() else ["--baselines", str(baselines)]
    return " ".join(["peft-regress history", *map(quoted, (*runs, *by, *storage))])
