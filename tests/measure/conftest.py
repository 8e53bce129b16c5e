"""What all tests of measuring share."""

import pytest

from peft_regress.files import CACHE_VARIABLE


@pytest.fixture(autouse=True)
def _nothing_is_kept(tmp_path, monkeypatch):
    """Let no test use what another one kept."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
