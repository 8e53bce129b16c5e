"""The command `peft-regress export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from peft_regress.baselines.named import find_input
from peft_regress.baselines.outputs import check_not_read, check_outside
from peft_regress.cli.options import NamedPath, baselines_option, cases_option, examples
from peft_regress.errors import InputError
from peft_regress.files import is_folder, write_atomic
from peft_regress.report.export import EXPORTERS, directions, left_out, narrow, texts_of
from peft_regress.report.terminal import say, standard_output

if TYPE_CHECKING:
    from collections.abc import Collection

    from peft_regress.report.export import Exporter


@click.command(
    "export",
    epilog=examples(
        "peft-regress export runs/bench.json --to csv --output numbers.csv",
        "peft-regress export 0017 --to junit --cases 'shift/*'",
    ),
)
@click.argument("run")
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice([*EXPORTERS]),
    metavar="TOOL",
    help=f"The tool that reads the output: {', '.join(EXPORTERS)}.",
)
@click.option(
    "--output",
    type=NamedPath(path_type=Path),
    help="Write to this file instead of the terminal; to this folder if the tool takes several "
    "files and there is no --direction.",
)
@cases_option(default="*")
@click.option(
    "--metric", default="*", metavar="GLOB", help="Only metrics that match, such as 'peak*'."
)
@click.option(
    "--direction",
    type=click.Choice(directions()),
    help="Only the metrics that are better smaller, or bigger, for a tool with a file for each.",
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
    exporter = EXPORTERS[target]
    if direction is not None and direction not in exporter.files:
        owners = " or ".join(name for name, one in EXPORTERS.items() if direction in one.files)
        msg = f"--direction {direction} is for --to {owners}: {target} writes one file"
        raise click.UsageError(msg)
    has_many = bool(exporter.files) and direction is None
    if has_many and output is None:
        msg = f"--to {target} writes a file for each direction: add --output FOLDER or --direction"
        raise click.UsageError(msg)
    found = find_input(baselines, run)
    if output is not None:
        check_outside(output, baselines, "--output")
        for written in (output, *(output / name for name in exporter.files.values())):
            check_not_read(written, found.path, "--output")
    chosen = narrow(found.read().run, cases=cases, metric=metric)
    for sentence in left_out(exporter, chosen):
        say(sentence, err=True)
    texts = texts_of(exporter, chosen, direction)
    if has_many and output is not None:
        _check_folder(output, exporter, texts)
        for file, text in texts.items():
            _put(text, output / file)
    else:
        (text,) = texts.values()
        _put(text, output)


def _check_folder(folder: Path, exporter: Exporter, texts: Collection[str]) -> None:
    """Raise `InputError` for a file, and for a folder with a file that would not be replaced."""
    if folder.exists() and not is_folder(folder):
        msg = f"{folder}: is a file; name a folder, or add --direction"
        raise InputError(msg)
    for direction, file in exporter.files.items():
        if file not in texts and (folder / file).exists():
            msg = (
                f"{folder / file}: is left from an earlier export; no metric here is better "
                f"{direction}. Remove it, or choose another folder."
            )
            raise InputError(msg)


def _put(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text.encode(), file=standard_output(), nl=False)
        return
    if is_folder(output):
        msg = f"{output}: is a folder; name a file"
        raise InputError(msg)
    write_atomic(output, text.encode())
    say(f"wrote {output}", err=True)
