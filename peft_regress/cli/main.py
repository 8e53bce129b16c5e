"""The command `peft-regress`: run one of `commands`, and end as documented.

Exit codes: 2 wrong use, unreadable input, output that cannot be written; else 1 something regressed
or newly fails; else 3 incomplete, or a named thing is absent; else 0.
"""

from __future__ import annotations

import io
import sys

import click

from peft_regress.cli.commands import cli
from peft_regress.errors import AbsentError, PeftRegressError
from peft_regress.report.terminal import discard_stream, echo, escape_unencodable
from peft_regress.text import printable

__all__ = ["cli", "main"]

_USAGE_EXIT = 2
_ABSENT_EXIT = 3


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error on purpose is one message and an exit code."""
    escape_unencodable()
    try:
        code = _run(arguments)
    except OSError:
        # The reader has gone, as after `| head`, or what is wrong cannot be said either; Python
        # would complain once more at exit.
        discard_stream(sys.stdout, sys.stderr)
        code = _USAGE_EXIT
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    """Return the exit code, with the error printed; a closed pipe alone is left to the caller."""
    try:
        code = cli.main(args=arguments, prog_name="peft-regress", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except SystemExit as stopped:
        # Verdicts are returned: a 1 by this way is what click makes of a closed pipe.
        if stopped.code == 1:
            raise BrokenPipeError from None
        raise
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        echo(shown.getvalue(), err=True, nl=False)
        code = _USAGE_EXIT
    except click.exceptions.Abort:
        echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        raise
    except AbsentError as error:
        echo(f"error: {error}", err=True)
        code = _ABSENT_EXIT
    except PeftRegressError as error:
        echo(f"error: {error}", err=True)
        code = _USAGE_EXIT
    except OSError as error:
        # Standard output on a full disk, for instance: never a verdict's exit code.
        echo(f"error: {_place(error)}: {error.strerror or error}", err=True)
        discard_stream(sys.stdout, sys.stderr)
        code = _USAGE_EXIT
    return code if isinstance(code, int) else 0


def _place(error: OSError) -> str:
    return "output" if error.filename is None else printable(str(error.filename))
