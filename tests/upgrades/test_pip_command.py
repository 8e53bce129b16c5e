"""Where an environment has no pip: uv brings it, with uv's settings of where packages are."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
from fake_interpreters import write_program

from peft_regress.overlay import pip as found
from peft_regress.overlay.pip import (
    PipError,
    conflicts,
    index_settings,
    pip_command,
    plan,
    problem_in,
    remedy_for,
)

PYTHON = Path("/overlay/bin/python")
OFFLINE = """\
error: No solution found when resolving tool dependencies
  cause: Because pip was not found in the cache and you require pip, we can conclude that your \
requirements are unsatisfiable.

hint: Packages were unavailable because the network was disabled.
"""


@pytest.fixture
def absent(monkeypatch, tmp_path):
    """Hide packages of this environment, and all of PATH but a folder, which is returned."""
    hidden = {"pip", "uv"}
    monkeypatch.setattr(found, "_is_installed", lambda name: name not in hidden)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("UV", raising=False)
    return tmp_path


def test_pip_of_the_environment_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    write_program(tmp_path / "uv", "#!/bin/sh\n")
    assert pip_command(PYTHON) == [str(PYTHON), "-P", "-m", "pip"]
    assert index_settings({"UV_DEFAULT_INDEX": "https://one/simple"}) == {}


def test_to_look_for_pip_asks_no_hook_of_setuptools(monkeypatch):
    class Hook:
        def find_spec(self, name, path=None, target=None):
            assert name not in {"pip", "uv"}, "setuptools unloads distutils when it is asked"

    monkeypatch.setattr(sys, "meta_path", [Hook(), *sys.meta_path])
    assert pip_command(PYTHON)[-1] == "pip"
    assert index_settings({"UV_DEFAULT_INDEX": "https://one/simple"}) == {}


def test_without_pip_uv_runs_one_on_the_same_interpreter(absent):
    uv = write_program(absent / "uv", "#!/bin/sh\n")
    command = pip_command(PYTHON)
    assert command[:3] == [uv, "tool", "run"]
    assert command[-3:] == ["pip", "--python", str(PYTHON)]


def test_uv_may_be_a_package_of_the_environment(absent, monkeypatch):
    monkeypatch.setattr(found, "_is_installed", lambda name: name != "pip")
    assert pip_command(PYTHON)[:4] == [sys.executable, "-P", "-m", "uv"]


def test_with_neither_the_message_names_both_remedies(absent):
    with pytest.raises(PipError, match="no pip, and uv is not on PATH") as caught:
        plan(["candy==1.0"])
    assert str(caught.value).startswith("candy==1.0: ")
    assert "`python -m ensurepip`" in str(caught.value)
    assert "put uv on PATH" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"UV_DEFAULT_INDEX": "https://one/simple"}, {"PIP_INDEX_URL": "https://one/simple"}),
        ({"UV_INDEX_URL": "https://one/simple"}, {"PIP_INDEX_URL": "https://one/simple"}),
        (
            {"UV_DEFAULT_INDEX": "mine=https://new", "UV_INDEX_URL": "https://old"},
            {"PIP_INDEX_URL": "https://new"},
        ),
        (
            {"UV_INDEX": "torch=https://a/whl https://b", "UV_EXTRA_INDEX_URL": "https://c"},
            {"PIP_EXTRA_INDEX_URL": "https://a/whl https://b https://c"},
        ),
        ({"UV_FIND_LINKS": "/one,/two"}, {"PIP_FIND_LINKS": "/one /two"}),
        ({"UV_CONSTRAINT": "/held.txt"}, {"PIP_CONSTRAINT": "/held.txt"}),
        (
            {"UV_TORCH_BACKEND": "cpu"},
            {"PIP_EXTRA_INDEX_URL": "https://download.pytorch.org/whl/cpu"},
        ),
        ({"UV_TORCH_BACKEND": "auto"}, {}),
        ({"UV_DEFAULT_INDEX": "https://one", "PIP_INDEX_URL": "https://mine"}, {}),
    ],
)
def test_what_uv_is_told_about_indexes_reaches_pip(absent, given, expected):
    assert index_settings(given) == expected


def test_pip_gets_the_settings_of_uv(absent, monkeypatch):
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://one/simple")
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    write_program(absent / "uv", "#!/bin/sh\n/usr/bin/env\nexit 1\n")
    assert "PIP_INDEX_URL=https://one/simple" in conflicts(PYTHON)


def test_uv_that_cannot_bring_pip_is_explained():
    assert problem_in(OFFLINE).startswith("uv could not bring pip (No solution found")
    assert "pip was not found in the cache" in problem_in(OFFLINE)
    assert "cannot be reached" in remedy_for(OFFLINE)


def test_a_check_that_says_nothing_is_no_check_without_conflicts(absent):
    write_program(absent / "uv", f"#!/bin/sh\necho '{OFFLINE}' >&2\nexit 1\n")
    with pytest.raises(PipError, match="uv could not bring pip"):
        conflicts(PYTHON)


PROGRAM = """\
from peft_regress.overlay.overlay import opened_overlay
with opened_overlay(["candy==1.0"]) as overlay:
    print(overlay.packages, overlay.remarks)
"""


@pytest.mark.slow
def test_an_overlay_over_an_environment_of_uv(index, tmp_path):
    folder = tmp_path / "made"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for entry in Path(distribution("pip").locate_file("")).iterdir():
        if not entry.name.startswith(("pip", "__pycache__")):
            (packages / entry.name).symlink_to(entry)
    done = subprocess.run(
        [folder / "bin" / "python", "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{'candy': '1.0'")
    assert "candy-1.0-py3-none-any.whl" in index.downloads()
