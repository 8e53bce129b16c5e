"""Parse the words of a command of peft-regress by its own parser, or call it in this process."""

import contextlib
import io

import click
import pytest

from peft_regress.cli.main import cli, main


def call_command(*arguments):
    """Call a command where no fixture is at hand; return (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stopped,
    ):
        main([str(argument) for argument in arguments])
    assert "Traceback" not in err.getvalue()
    return int(stopped.value.code or 0), out.getvalue(), err.getvalue()


def check_command(words):
    """Parse a command by its own parser, without running it."""
    name = words[0]
    # With the settings of the group: click keeps the names of `--help` with the command.
    parent = click.Context(cli, **cli.context_settings)
    command = cli.get_command(parent, name)
    return command.make_context(name, list(words[1:]), parent=parent).params
