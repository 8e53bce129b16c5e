"""The command `peft-fuzz`: one module for each subcommand."""

from __future__ import annotations

from typing import Final

import click

from peft_regress.cli.group import CONTEXT, LazyGroup, end_with

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS: Final = {
    "search": "Search for defects of adapters that nobody wrote a case for.",
    "replay": "Replay the known defects: which are mended, still there, or new.",
    "accept": "Put findings into the corpus of known defects.",
    "checklist": "Compare a method in a pull request by the protocol of peft's maintainers.",
}


@click.group(
    cls=LazyGroup,
    sections={"Commands": COMMANDS},
    package="peft_fuzz.cli",
    context_settings=CONTEXT,
)
@click.version_option(package_name="peft-fuzz")
def cli() -> None:
    """Search libraries of adapters for defects. For their maintainers."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, and exit."""
    end_with(cli, "peft-fuzz", arguments)
