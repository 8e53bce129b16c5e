"""Call a command in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from peft_regress.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call `peft-regress` and return (exit code, stdout, stderr)."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call
