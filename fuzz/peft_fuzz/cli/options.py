"""Options that several commands of `peft-fuzz` share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from peft_regress.cli.options import (
    format_option,
    limit_option,
    output_file,
    pip_limit_option,
)
from peft_regress.report.terminal import print_progress
from peft_regress.text import clean


class Minutes(click.FloatRange):
    """A number in a range; NaN, which compares with nothing, is refused."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


corpus_option = click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    default=Path("fuzz/corpus"),
    show_default=True,
    help="Folder of the known defects.",
)
summary_option = click.option(
    "--summary",
    type=output_file,
    metavar="FILE",
    help="Write the result to this file, as Markdown.",
)
ENVIRONMENT_OPTIONS: Final = (
    click.option("--pre", is_flag=True, help="Allow pre-releases."),
    click.option("--yes", "replace_torch", is_flag=True, help="Allow another build of torch."),
    pip_limit_option,
)


def finding_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the commands that find defects."""
    options = (
        click.argument("requirements", metavar="[REQUIREMENT]...", nargs=-1),
        click.option(
            "--methods",
            metavar="GLOB",
            default="*",
            show_default=True,
            help="Only methods whose name matches, such as 'lo*'.",
        ),
        *ENVIRONMENT_OPTIONS,
        limit_option("--time-limit", "How long one life may take.", seconds=60),
        click.option(
            "--save",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="FOLDER",
            default=Path("runs/fuzz"),
            show_default=True,
            help="Write each finding to this folder as soon as it is found.",
        ),
        summary_option,
        corpus_option,
        format_option,
        click.pass_context,
    )
    return functools.reduce(lambda made, option: option(made), reversed(options), command)


def say(text: str) -> None:
    """Print a line of progress."""
    print_progress(clean(text, longest=400))
