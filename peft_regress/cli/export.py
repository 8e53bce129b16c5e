"""The command `peft-regress export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from peft_regress.baselines.named import find_input
from peft_regress.cli.options import (
    NamedPath,
    baselines_option,
    cases_option,
    examples,
)
from peft_regress.errors import AbsentError, InputError
from peft_regress.files import is_folder, write_atomic
from peft_regress.report import export
from peft_regress.report.terminal import echo, standard_output
from peft_regress.text import clean

if TYPE_CHECKING:
    from peft_regress.runs.schema import Run

__all__ = ["command"]

_GITHUB: Final = "github-action-benchmark"
_NUMBERS_ONLY: Final = (_GITHUB, "bencher")


@click.command(
    "export", epilog=examples("peft-regress export runs/bench.json --to csv --output numbers.csv")
)
@click.argument("run")
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice([_GITHUB, "bencher", "csv", "junit"]),
    help="The tool that reads the output.",
)
@click.option(
    "--output",
    type=NamedPath(path_type=Path),
    help=f"Write to this file instead of the terminal; for {_GITHUB} without --direction, to this "
    "folder.",
)
@cases_option(default="*")
@click.option(
    "--metric", default="*", metavar="GLOB", help="Only metrics that match, such as 'peak*'."
)
@click.option(
    "--direction",
    type=click.Choice(["smaller", "bigger"]),
    help=f"For {_GITHUB}: only the metrics of which less, or more, is better.",
)
@baselines_option
def command(  # noqa: PLR0913  (arguments and options)
    run: str,
    target: str,
    *,
    output: Path | None,
    cases: str,
    metric: str,
    direction: str | None,
    baselines: Path,
) -> None:
    """Write RUN in the format of another tool.

    RUN is a run file, a folder of shards, or an entry of the storage.
    """
    if direction is not None and target != _GITHUB:
        msg = f"--direction is for --to {_GITHUB}: the other formats hold all metrics"
        raise click.UsageError(msg)
    if target == _GITHUB and direction is None and output is None:
        msg = f"--to {_GITHUB} writes two files: add --output FOLDER or --direction"
        raise click.UsageError(msg)
    made = find_input(baselines, run).read().run
    chosen = export.narrow(made, cases=cases, metric=metric)
    if target in _NUMBERS_ONLY:
        _name_left_out(chosen, target)
    if target != _GITHUB:
        write = {"bencher": export.bencher_json, "csv": export.csv_table, "junit": export.junit_xml}
        _put(write[target](chosen), output)
    elif direction is not None:
        _put(_of_direction(chosen, direction), output)
    elif output is not None:
        _put_both(chosen, output)


def _name_left_out(run: Run, target: str) -> None:
    """Name on standard error the cases and metrics that a format of numbers cannot hold."""
    absent = export.without_metrics(run)
    if len(absent) == len(run.cases):
        msg = f"none of the {len(absent)} cases has a metric; --to csv and junit have their errors"
        raise AbsentError(msg)
    if absent:
        echo(f"left out, without a metric: {clean(' '.join(absent), longest=2000)}", err=True)
    if target == _GITHUB:
        names = [
            *export.directed_metrics(run, "same"),
            *export.directed_metrics(run, "none"),
        ]
        if names:
            shown = clean(" ".join(names), longest=2000)
            echo(f"left out, neither less nor more is better: {shown}", err=True)


def _of_direction(run: Run, name: str) -> str:
    direction, tool = export.DIRECTIONS[name]
    if not export.directed_metrics(run, direction):
        msg = f"no metric here is better {name}, and {_GITHUB} refuses an empty file of {tool}"
        raise AbsentError(msg)
    return export.github_action_benchmark_json(run, direction)


def _put_both(run: Run, folder: Path) -> None:
    """Write a file for each direction, named as the tool's input `tool`."""
    if folder.exists() and not is_folder(folder):
        msg = f"{folder}: is a file; name a folder, or add --direction"
        raise InputError(msg)
    files = {name: folder / f"{tool}.json" for name, (_, tool) in export.DIRECTIONS.items()}
    present = {name for name in files if export.directed_metrics(run, export.DIRECTIONS[name][0])}
    for name in files.keys() - present:
        if files[name].exists():
            msg = (
                f"{files[name]}: is left from an earlier export; no metric here is better {name}. "
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
        msg = f"{output}: is a folder; name a file"
        raise InputError(msg)
    write_atomic(output, text.encode())
    echo(f"wrote {output}", err=True)
