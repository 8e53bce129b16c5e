"""What a node must have so that its records are those that this machine would make."""

from __future__ import annotations

import hashlib
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Final

import peft_regress
from peft_regress.files import read_bytes
from peft_regress.runs.environment import changed_packages, installed_packages
from peft_regress.text import clean
from peft_regress.upgrades.cluster.messages import Facts

_SHARED: Final = ("sources", "adapters")
"""The folders of a storage that a case reads."""


def facts_here(baselines: Path) -> Facts:
    """Return the facts of this process. Raises `OSError` for a file that cannot be read."""
    code = Path(peft_regress.__file__).parent
    return Facts(
        packages=installed_packages(),
        dask=version("distributed"),
        code=_digest_of(sorted(code.rglob("*.py")), code),
        files={
            str(path.relative_to(baselines)): hashlib.sha256(read_bytes(path)).hexdigest()
            for folder in _SHARED
            for path in sorted((baselines / folder).rglob("*"))
            if path.is_file()
        },
    )


def difference(wanted: Facts, found: Facts, *, python: str, baselines: str) -> str | None:
    """Return what a node lacks and what mends it, in one sentence; None if it lacks nothing.

    python: the node's interpreter.
    """
    for name, (one, other) in changed_packages(wanted.packages, found.packages).items():
        if name == "python":
            return f"has Python {other}, the command runs on {one}; start it with the same Python"
        what = f"{name} {one}" if one else f"no {name}"
        remedy = f"-m pip install {name}=={one}" if one else f"-m pip uninstall {name}"
        return (
            f"has {f'{name} {other}' if other else f'no {name}'}, the command has {what}; run "
            f"`{shlex.quote(python)} {remedy}` there, and start the worker again"
        )
    if found.dask != wanted.dask:
        return (
            f"has distributed {found.dask}, the command has {wanted.dask}; run "
            f"`{shlex.quote(python)} -m pip install distributed=={wanted.dask}` there"
        )
    if found.code != wanted.code:
        return (
            "has other code of peft_regress of the same version; install this one there, from its "
            f"checkout: `{shlex.quote(python)} -m pip install .`"
        )
    for name in sorted(wanted.files.keys() | found.files.keys()):
        one, other = wanted.files.get(name), found.files.get(name)
        if one != other:
            how = "is missing" if other is None else "is not here" if one is None else "differs"
            return (
                f"{clean(f'{baselines}/{name}')} {how} there; put the storage into a folder that "
                f"all nodes share, or copy it: `rsync -a --delete {shlex.quote(baselines)}/ "
                f"NODE:{shlex.quote(baselines)}/`"
            )
    return None


def _digest_of(files: list[Path], root: Path) -> str:
    total = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(read_bytes(path)).hexdigest()
        total.update(f"{path.relative_to(root)} {content}\n".encode())
    return total.hexdigest()
