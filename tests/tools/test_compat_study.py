"""tools/compat/study.py, with the running interpreter as every release."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import study


@pytest.mark.nightly
def test_equal_releases_load_every_adapter_of_each_other_alike(monkeypatch, tmp_path, capsys):
    @contextlib.contextmanager
    def running(_requirements):
        yield SimpleNamespace(python=Path(sys.executable))

    monkeypatch.setattr(study, "opened_overlay", running)
    monkeypatch.setattr(study, "RELEASES", ("0.20.0", "0.21.2"))
    monkeypatch.setattr(study, "WORK", tmp_path)
    study.main()
    counts, breaks, unbroken = capsys.readouterr().out.strip().split("\n\n")
    table = dict(line.strip("| ").split(" | ") for line in counts.splitlines())
    saved = int(table["adapters saved"])
    assert saved > 60
    assert int(table["loaded"]) == int(table["same"]) == 2 * saved
    assert len(breaks.splitlines()) == 2
    assert unbroken.splitlines()[-1].startswith("| 0.20-0.21 | lora; lora, convolution; ")


@pytest.mark.parametrize(
    ("places", "shown"), [([0], "0.10"), ([2, 0, 1, 11], "0.10-0.12, 0.21"), ([5, 6], "0.15-0.16")]
)
def test_releases_in_a_row_are_a_range_of_minor_releases(places, shown):
    assert study.ranges(places) == shown
