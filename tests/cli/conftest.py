"""Call a command in this process."""

from __future__ import annotations

import pytest

from peft_regress.cli.main import main


@pytest.fixture
def command(capsys):
    """Call `peft-regress` and return (exit code, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call
