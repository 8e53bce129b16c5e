"""The command `peft-regress`: one module for each command, shared options, exit codes."""

from peft_regress.cli.main import cli, main

__all__ = ["cli", "main"]
