"""The command `peft-regress export`: thin, no logic of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from peft_regress.cli.options import NamedPath
from peft_regress.errors import AbsentError, InputError
from peft_regress.files import is_folder, write_atomic
from peft_regress.report.terminal import echo, standard_output

if TYPE_CHECKING:
    from peft_regress.runs.schema import Run

__all__ = ["export_command"]

_GITHUB: Final = "github-action-benchmark"
_NUMBERS_ALONE: Final = (_GITHUB, "bencher")


@click.command("export")
@click.argument("run", type=NamedPath(path_type=Path))
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice([_GITHUB, "bencher", "csv", "junit"]),
    help="The format of which tool.",
)
@click.option(
    "--output",
    type=NamedPath(path_type=Path),
    help=f"Write here, not to the terminal; for {_GITHUB} without --direction a folder.",
)
@click.option("--cases", default="*", metavar="GLOB", help="Only these ids.")
@click.option("--metric", default="*", metavar="GLOB", help="Only these metrics.")
@click.option(
    "--direction",
    type=click.Choice(["smaller", "bigger"]),
    help=f"Of {_GITHUB}, whose files have one each: which is better.",
)
def export_command(  # noqa: PLR0913  (arguments and options)
    run: Path,
    target: str,
    *,
    output: Path | None,
    cases: str,
    metric: str,
    direction: str | None,
) -> None:
    """Write RUN, a run file or a folder of shards, in the format of another tool."""
    from peft_regress.report import export
    from peft_regress.runs.shards import read_run

    if direction is not None and target != _GITHUB:
        msg = f"--direction is for --to {_GITHUB}: the other formats hold all metrics"
        raise click.UsageError(msg)
    if target == _GITHUB and direction is None and output is None:
        msg = f"--to {_GITHUB} makes a file a direction: add --output FOLDER or --direction"
        raise click.UsageError(msg)
    chosen = export.narrow(read_run(run).run, cases=cases, metric=metric)
    _say_what_is_left_out(chosen, target)
    if target != _GITHUB:
        write = {"bencher": export.bencher_json, "csv": export.csv_table, "junit": export.junit_xml}
        _put(write[target](chosen), output)
    elif direction is not None:
        _put(_of_direction(chosen, direction), output)
    elif output is not None:
        _put_both(chosen, output)


def _say_what_is_left_out(run: Run, target: str) -> None:
    """Say on the error stream which cases and metrics the format has no place for."""
    from peft_regress.report.export import directed_metrics, without_metrics
    from peft_regress.text import clean

    absent = without_metrics(run)
    if target not in _NUMBERS_ALONE:
        return
    if len(absent) == len(run.cases):
        msg = f"none of the {len(absent)} cases has a metric; --to csv and junit have their errors"
        raise AbsentError(msg)
    if absent:
        echo(f"left out, without a metric: {clean(' '.join(absent), longest=2000)}", err=True)
    if target == _GITHUB:
        names = directed_metrics(run, "same") + directed_metrics(run, "none")
        if names:
            shown = clean(" ".join(names), longest=2000)
            echo(f"left out, better neither smaller nor bigger: {shown}", err=True)


def _of_direction(run: Run, name: str) -> str:
    from peft_regress.report.export import (
        DIRECTIONS,
        directed_metrics,
        github_action_benchmark_json,
    )

    direction, tool = DIRECTIONS[name]
    if not directed_metrics(run, direction):
        msg = f"no metric here is better {name}, and {_GITHUB} refuses an empty file of {tool}"
        raise AbsentError(msg)
    return github_action_benchmark_json(run, direction)


def _put_both(run: Run, folder: Path) -> None:
    """Write a file a direction, named as the tool's input `tool`."""
    from peft_regress.report.export import DIRECTIONS, directed_metrics

    if folder.exists() and not is_folder(folder):
        msg = f"{folder}: is a file, and a folder is wanted; or add --direction"
        raise InputError(msg)
    files = {name: folder / f"{tool}.json" for name, (_, tool) in DIRECTIONS.items()}
    present = {name for name in files if directed_metrics(run, DIRECTIONS[name][0])}
    for name in files.keys() - present:
        if files[name].exists():
            msg = (
                f"{files[name]}: is of an earlier export, and no metric here is better {name}. "
                "Remove it, or choose another folder."
            )
            raise InputError(msg)
    texts = {files[name]: _of_direction(run, name) for name in files if name in present}
    for path, text in texts.items():
        _put(text, path)


def _put(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text.encode(), file=standard_output(), nl=False)
        return
    if is_folder(output):
        msg = f"{output}: is a folder, and a file is wanted"
        raise InputError(msg)
    write_atomic(output, text.encode())
    echo(f"wrote {output}", err=True)
