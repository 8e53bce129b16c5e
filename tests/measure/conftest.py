"""What all tests of measuring share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from peft_regress.files import CACHE_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test use what another one kept."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
