"""tools/compat/study.py, with the running interpreter as every release."""

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import study


@pytest.mark.nightly
def test_equal_releases_load_every_adapter_of_each_other_alike(monkeypatch, tmp_path, capsys):
    @contextlib.contextmanager
    def running(*_):
        yield SimpleNamespace(python=Path(sys.executable))

    monkeypatch.setattr(study, "opened_overlay", running)
    monkeypatch.setattr(study, "RELEASES", ("0.20.0", "0.21.2"))
    monkeypatch.setattr(study, "WORK", tmp_path)
    study.main()
    breaks, counts = capsys.readouterr().out.strip().split("\n\n")
    assert len(breaks.splitlines()) == 2
    table = dict(line.strip("| ").split(" | ") for line in counts.splitlines())
    assert int(table["adapters saved"]) > 60
    assert int(table["same"]) == 2 * int(table["adapters saved"])
