"""This repository's own storage, read once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from peft_regress.baselines import index
from peft_regress.baselines.entries import read_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

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


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the entries that are parsed because the index does not know them."""
    names: list[str] = []
    real = index.stream_without_ledgers

    def noted(paths: Sequence[Path]) -> Any:
        names.extend(path.stem for path in paths)
        return real(paths)

    monkeypatch.setattr(index, "stream_without_ledgers", noted)
    return names
