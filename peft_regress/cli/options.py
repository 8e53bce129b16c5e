"""What several commands share: options, and how JSON is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from peft_regress.report.terminal import echo

__all__ = [
    "USUAL_STORAGE",
    "NamedPath",
    "baselines_option",
    "format_option",
    "jobs_option",
    "output_file",
    "pip_seconds_option",
    "pre_option",
    "print_json",
    "time_limit_option",
    "yes_option",
]


USUAL_STORAGE = Path("baselines")
"""The storage of the commands that name none."""


class NamedPath(click.Path):
    """A path that may not be empty, since `Path("")` is the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("the name is empty: a file or a folder is wanted", param, ctx)
        return super().convert(value, param, ctx)


output_file = NamedPath(path_type=Path, dir_okay=False, readable=False, writable=True)
"""A file to write: what is none is refused before minutes of work."""
format_option = click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    show_default=True,
    help="How to print.",
)
baselines_option = click.option(
    "--baselines",
    type=NamedPath(path_type=Path),
    default=USUAL_STORAGE,
    show_default=True,
    help="Folder of the baseline storage.",
)
time_limit_option = click.option(
    "--time-limit",
    type=click.IntRange(1, 86400),
    default=600,
    show_default=True,
    help="Seconds that one case may take.",
)
pip_seconds_option = click.option(
    "--pip-time-limit",
    type=click.IntRange(1, 86400),
    default=600,
    show_default=True,
    help="Seconds that one call of pip may take.",
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 64), help="Cases at once (default: one a core)."
)
pre_option = click.option("--pre", is_flag=True, help="Take pre-releases into account.")
yes_option = click.option("--yes", is_flag=True, help="Replace torch by another build if need be.")


def print_json(value: Any) -> None:
    """Print a JSON value."""
    echo(json.dumps(value, indent=2, allow_nan=False))
