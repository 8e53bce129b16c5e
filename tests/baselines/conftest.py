"""This repository's own storage, read once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from peft_regress.baselines.storage import read_runs

if TYPE_CHECKING:
    from peft_regress.runs.run_file import RunFile


@pytest.fixture(scope="session")
def own_storage() -> list[RunFile]:
    return read_runs(Path(__file__).parents[2] / "baselines", ledgers=False)
