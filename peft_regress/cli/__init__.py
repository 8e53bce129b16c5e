"""The command `peft-regress`: one module a command, shared options, exit codes."""

from peft_regress.cli.main import cli, main

__all__ = ["cli", "main"]
