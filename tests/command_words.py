"""Parse the words of a command of peft-regress by its own parser."""

import click

from peft_regress.cli.main import cli


def check_command(words):
    """Parse a command by its own parser, without running it."""
    name = words[0]
    # With the settings of the group: click keeps the names of `--help` with the command.
    parent = click.Context(cli, **cli.context_settings)
    command = cli.get_command(parent, name)
    return command.make_context(name, list(words[1:]), parent=parent).params
