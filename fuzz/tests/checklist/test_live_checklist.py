"""`checklist` on real checkouts: as they are, and with a changed line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import peft
import pytest

_PROJECT = f"""
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "peft"
version = "{version("peft")}"
[tool.setuptools.packages.find]
include = ["peft*"]
"""
_LINE = "result = self.ln_tuning_layers[active_adapter](x, *args, **kwargs)"


@pytest.fixture
def checkout(tmp_path):
    """Write a checkout of the installed peft, with a line of LN tuning replaced."""

    def write(name: str, line: str = _LINE) -> str:
        folder = tmp_path / name
        shutil.copytree(Path(peft.__file__).parent, folder / "peft")
        (folder / "pyproject.toml").write_text(_PROJECT)
        layer = folder / "peft" / "tuners" / "ln_tuning" / "layer.py"
        text = layer.read_text()
        assert text.count(_LINE) == 1
        layer.write_text(text.replace(_LINE, line))
        return str(folder)

    return write


@pytest.mark.nightly
def test_a_changed_line_of_a_checkout_fails_and_an_unchanged_checkout_passes(checkout, tmp_path):
    def filled(branch: str, base: str) -> tuple[int, dict]:
        done = subprocess.run(
            [
                sys.executable, "-m", "peft_fuzz", "checklist", "ln_tuning", branch,
                "--base", base, "--format", "json",
            ],
            env={**os.environ, "PEFT_REGRESS_CACHE": str(tmp_path / "cache")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    same = checkout("same")
    code, found = filled(same, "installed")
    assert code == 0
    assert {row["verdict"] for row in found["rows"]} == {"ok", "shown"}

    code, found = filled(checkout("changed", f"{_LINE} * 1.01"), same)
    assert code == 1
    verdicts = {row["what"]: row["verdict"] for row in found["rows"] if row["about"] == "outputs"}
    assert verdicts["LayerNorm, float32"] == "out of bounds"
    assert {row["verdict"] for row in found["rows"] if row["about"] == "checkpoint"} <= {"ok"}
