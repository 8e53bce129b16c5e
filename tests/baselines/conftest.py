"""This repository's own storage, read once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from peft_regress.baselines import index
from peft_regress.baselines.entries import read_runs

if TYPE_CHECKING:
    from peft_regress.runs.run_file import RunFile


@pytest.fixture(autouse=True)
def index_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Index small storages, too, in a folder of the test."""
    monkeypatch.setattr(index, "_WORTH_KEEPING", 1)
    monkeypatch.setenv("PEFT_REGRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "storages"


@pytest.fixture(scope="session")
def own_storage() -> list[RunFile]:
    return read_runs(Path(__file__).parents[2] / "baselines", ledgers=False)
