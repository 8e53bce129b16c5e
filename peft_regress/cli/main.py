"""The command `peft-regress`: find the command that was typed, run it, end with its exit code.

Exit codes: 2 wrong use, unreadable input, or output that cannot be written; else 1 something
regressed or newly fails; else 3 incomplete, or a named thing is absent; else 0. As of any program:
130 if it was interrupted, 141 if nobody reads its output, as after `| head`.
"""

from __future__ import annotations

import importlib
import io
import sys
from difflib import get_close_matches
from typing import Final

import click

from peft_regress.errors import AbsentError, PeftRegressError
from peft_regress.imports import told
from peft_regress.report.terminal import as_ascii, discard_stream, echo, escape_unencodable, say
from peft_regress.text import clean, printable

_USAGE_EXIT = 2
_ABSENT_EXIT = 3
_INTERRUPTED_EXIT = 130
_UNREAD_EXIT = 141
"""What a shell reports of a program that SIGPIPE ended: no verdict, and no wrong use."""
_LONGEST_PROBLEM = 2000
_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Help is as wide as the terminal, up to what reads well."""

SECTIONS: Final = {
    "Measure": {
        "init": "Write a first suite that gates a fine-tuning of your own.",
        "list": "List the cases of a matrix.",
        "measure": "Measure cases and write their run, without pytest and without a verdict.",
        "cost": "Show what one training step costs, without training and without a source model.",
    },
    "Judge": {
        "compare": "Judge run NEW by OLD.",
        "explain": "Show which modules and operators changed the costs of CASE.",
        "time": "Test whether a training step is slower in CANDIDATE than in BASE.",
    },
    "Upgrade": {
        "upgrade": "Show what an upgrade to REQUIREMENT, such as peft==0.14.0, would change.",
        "bisect": "Find the release of PACKAGE that changes a case, with as few tries as possible.",
        "fuzz": "Search for defects of adapters that nobody wrote a case for.",
        "compat": "Show which releases load the saved ADAPTER, and whether they compute the same.",
    },
    "Look": {
        "report": "Show what every case costs and how accurate it is.",
        "history": "Show how each metric changed over the stored entries.",
        "export": "Write the numbers of RUN as a table for other tools.",
    },
    "Store": {
        "accept": "Store RUN in the baseline storage, so that it judges later runs.",
        "sources": "Train the source models that are missing, or check the stored ones.",
    },
}
"""The commands by what they are for, with the first sentence of their help.

`--help` shows it and imports no command.
"""

COMMANDS: Final = {name: text for names in SECTIONS.values() for name, text in names.items()}
"""Every command. The module `peft_regress.cli.<name>` holds it as `command`."""


class _LazyGroup(click.Group):
    """A group that imports the module of a command when somebody calls that command."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click passes it)
        """Return the names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"peft_regress.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed; name the closest one if there is none."""
        closest = get_close_matches(args[0], COMMANDS, n=1)
        if closest and args[0] not in COMMANDS:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {closest[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  (click calls it)
        """Write a table of commands for each section, all as wide."""
        widest = max(map(len, COMMANDS))
        named = {name for commands in SECTIONS.values() for name in commands}
        others = {name: text for name, text in COMMANDS.items() if name not in named}
        for title, commands in {**SECTIONS, "Other": others}.items():
            if not commands:
                continue
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), text) for name, text in commands.items()])


@click.group(cls=_LazyGroup, context_settings=_CONTEXT)
@click.version_option(package_name="peft-regress")
@click.option("--ascii", "ascii_only", is_flag=True, help="Escape non-ASCII characters.")
def cli(*, ascii_only: bool) -> None:
    """Gate the cost and the function of parameter-efficient fine-tuning.

    `pytest benchmarks --regress-save runs/bench.json` or `tox -e bench` measures all cases, and
    judges them. These commands do the rest. Each has examples in its own `--help`.
    """
    if ascii_only:
        as_ascii()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. An error that the package raises becomes a message and an exit code."""
    escape_unencodable()
    try:
        code = _run(arguments)
    except OSError as error:
        # Nobody reads the output, or the error message itself cannot be written. Without this,
        # Python would complain at exit.
        discard_stream(sys.stdout, sys.stderr)
        code = _UNREAD_EXIT if isinstance(error, BrokenPipeError) else _USAGE_EXIT
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    """Return the exit code, with any error printed. A closed pipe is left to the caller."""
    try:
        code = cli.main(args=arguments, prog_name="peft-regress", standalone_mode=False)
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
    """Print the usage, and what is wrong with it."""
    shown = io.StringIO()
    error.show(file=shown)
    usage, _, problem = shown.getvalue().partition("Error: ")
    echo(usage, err=True, nl=False)
    if problem.strip():  # else the usage is the whole help, since nothing was typed
        say(f"Error: {clean(problem, longest=_LONGEST_PROBLEM)}", err=True)
