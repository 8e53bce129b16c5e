"""This repository's own storage, read once."""

from pathlib import Path

import pytest
from builders import read_runs


@pytest.fixture(scope="session")
def own_storage():
    return read_runs(Path(__file__).parents[2] / "baselines", ledgers=False)
