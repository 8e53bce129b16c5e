"""What both commands of this repository share: lazy subcommands, errors, exit codes.

Exit codes: 2 wrong use, unreadable input, or output that cannot be written; else 1 something
regressed or newly fails; else 3 incomplete, or a named thing is absent; else 0. As of any program:
130 if it was interrupted, 141 if nobody reads its output, as after `| head`.
"""

import importlib
import io
import sys
from difflib import get_close_matches
from typing import Any, Final

import click

from peft_regress.errors import AbsentError, PeftRegressError
from peft_regress.imports import told
from peft_regress.report.terminal import discard_stream, echo, say
from peft_regress.text import clean, printable

_USAGE_EXIT = 2
_ABSENT_EXIT = 3
_INTERRUPTED_EXIT = 130
_UNREAD_EXIT = 141
"""What a shell reports of a program that SIGPIPE ended: no verdict, and no wrong use."""
_LONGEST_PROBLEM = 2000
CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Help is as wide as the terminal, up to what reads well."""


class LazyGroup(click.Group):
    """A group that imports the module of a command when somebody calls that command.

    Attributes:
        sections: The commands by what they are for, with the first sentence of their help:
            `--help` shows it and imports no command.
        package: Holds a module for each command, which has it as `command`.

    """

    def __init__(
        self, *arguments: Any, sections: dict[str, dict[str, str]], package: str, **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self.sections = sections
        self.package = package

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click passes it)
        """Return the names in the order of the sections."""
        return [name for names in self.sections.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{self.package}.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed; name the closest one if there is none."""
        names = self.list_commands(ctx)
        closest = get_close_matches(args[0], names, n=1)
        if closest and args[0] not in names:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {closest[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a table of commands for each section, all as wide."""
        widest = max(map(len, self.list_commands(ctx)))
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), text) for name, text in commands.items()])


def end_with(group: click.Group, name: str, arguments: list[str] | None = None) -> None:
    """Run a command line and exit. An error of the package becomes a message and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Letters that it cannot hold are escaped, instead of an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(group, name, arguments)
    except OSError as error:
        # Nobody reads the output, or the error message itself cannot be written. Without this,
        # Python would complain at exit.
        discard_stream(sys.stdout, sys.stderr)
        code = _UNREAD_EXIT if isinstance(error, BrokenPipeError) else _USAGE_EXIT
    sys.exit(code)


def _run(group: click.Group, name: str, arguments: list[str] | None) -> int:
    """Return the exit code, with any error printed. A closed pipe is left to the caller."""
    try:
        code = group.main(args=arguments, prog_name=name, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except SystemExit as stopped:
        # Commands return their exit codes; click exits with 1 only when a pipe is closed.
        if stopped.code == 1:
            raise BrokenPipeError from None
        raise
    except click.ClickException as error:
        _show(error)
        code = _USAGE_EXIT
    except click.exceptions.Abort:
        echo("interrupted", err=True)
        code = _INTERRUPTED_EXIT
    except BrokenPipeError:
        raise
    except PeftRegressError as error:
        echo("error: " + "\n".join(printable(str(problem)) for problem in error.args), err=True)
        code = _ABSENT_EXIT if isinstance(error, AbsentError) else _USAGE_EXIT
    except ImportError as error:
        say(f"error: {told(error)}. Repair or install that package.", err=True)
        code = _USAGE_EXIT
    except OSError as error:
        # For example a full disk under standard output, which must not look like a verdict.
        file = "output" if error.filename is None else error.filename
        # A library that does not load has no number, and says its name.
        problem = told(error) if error.errno is None else f"{file}: {error.strerror}"
        say(f"error: {problem}", err=True)
        discard_stream(sys.stdout, sys.stderr)
        code = _USAGE_EXIT
    return code if isinstance(code, int) else 0


def _show(error: click.ClickException) -> None:
    shown = io.StringIO()
    error.show(file=shown)
    usage, _, problem = shown.getvalue().partition("Error: ")
    echo(usage, err=True, nl=False)
    if problem.strip():  # else the usage is the whole help, since nothing was typed
        say(f"Error: {clean(problem, longest=_LONGEST_PROBLEM)}", err=True)
