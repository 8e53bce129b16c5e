"""Find the pip that works on an interpreter: its own, or one that uv fetches where there is none.

Environments that uv makes have no pip. `uv tool run pip --python INTERPRETER` is pip all the same:
plans, digests and messages are those of any other environment.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

NO_PIP: Final = "this environment has no pip, and uv is not on PATH"
NO_PIP_REMEDY: Final = (
    "Install pip here: `python -m ensurepip` (in an environment of uv: `uv pip install pip`); or "
    "put uv on PATH, which then brings pip"
)

_TORCH_INDEX: Final = "https://download.pytorch.org/whl"
# Where uv is told to look for packages. pip reads no setting of uv.
_OF_UV: Final = {
    "PIP_INDEX_URL": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "PIP_EXTRA_INDEX_URL": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "PIP_FIND_LINKS": ("UV_FIND_LINKS",),
    "PIP_CONSTRAINT": ("UV_CONSTRAINT",),
}
_NAME_OF_INDEX: Final = re.compile(r"^[\w.-]+=(?=\w+://)")


def pip_command(python: Path) -> list[str] | None:
    """Return the beginning of a command of pip for an interpreter; None if there is no pip.

    The interpreter is the running one, or that of an overlay, which has the same packages.
    """
    if _is_installed("pip"):
        # -P: a pip.py in the working directory must not be imported.
        return [str(python), "-P", "-m", "pip"]
    uv = _uv()
    if uv is None:
        return None
    # The running Python, so that uv downloads none.
    tool = ["tool", "run", "--quiet", "--python", sys.executable, "pip"]
    return [*uv, *tool, "--python", str(python)]


def index_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return pip's variables for what uv's variables say about where packages are.

    Empty where pip is installed, and without what is set for pip itself.
    """
    if _is_installed("pip"):
        return {}
    found = {}
    for variable, names in _OF_UV.items():
        given = [one for name in names for one in re.split(r"[,\s]+", environment.get(name, ""))]
        if variable == "PIP_EXTRA_INDEX_URL":
            given.append(_index_of_torch(environment.get("UV_TORCH_BACKEND", "")))
        chosen = [_NAME_OF_INDEX.sub("", one) for one in given if one]
        if variable == "PIP_INDEX_URL":
            # There is one: uv, too, reads the older name only if the newer one is not set.
            chosen = chosen[:1]
        if chosen and variable not in environment:
            found[variable] = " ".join(chosen)
    return found


def _index_of_torch(backend: str) -> str:
    return f"{_TORCH_INDEX}/{backend}" if re.fullmatch(r"cpu|cu\d+|rocm[\d.]+|xpu", backend) else ""


def _uv() -> list[str] | None:
    """Return the command of uv: on PATH, or the package `uv` of this environment."""
    found = shutil.which("uv") or os.environ.get("UV")
    if found:
        return [found]
    return [sys.executable, "-P", "-m", "uv"] if _is_installed("uv") else None


def _is_installed(name: str) -> bool:
    # Not by `importlib.util.find_spec`: asked for pip, setuptools unloads distutils and warns.
    return PathFinder.find_spec(name) is not None
