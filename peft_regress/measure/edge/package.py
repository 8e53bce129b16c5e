"""Find ExecuTorch, an extra: everything else works without it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from peft_regress.errors import InputError
from peft_regress.text import clean

_FOLDERS: Final = re.compile(r"(?<![\w.:/])/(?:[^\s'\":/]+/)+")
INSTALL: Final = "python -m pip install 'peft-regress[executorch]'"
"""The command that installs the runtime."""


def is_installed() -> bool:
    """Return whether ExecuTorch is installed, without importing it.

    A folder of its name on `sys.path`, such as a checkout, is not it.
    """
    try:
        importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec("executorch") is not None


def require_executorch(*, runs: bool) -> None:
    """Import ExecuTorch's exporter, and if `runs` its runtime.

    The exporter is Python code; the runtime was built for one release of torch. Raises `InputError`
    if ExecuTorch is not installed, or does not import beside the installed torch.
    """
    if not is_installed():
        raise InputError(f"executorch is not installed: {INSTALL}")
    try:
        package_folders()
        load("executorch.exir")
        if runs:
            load("executorch.extension.pybindings.portable_lib")
    except (ImportError, AttributeError, OSError) as error:
        versions = {name: importlib.metadata.version(name) for name in ("executorch", "torch")}
        raise InputError(
            f"executorch {versions['executorch']} does not import beside torch "
            f"{versions['torch']}: {_said(error)}. Install the "
            "executorch that was built for this torch, or the torch that it was built for: "
            "`upgrade` takes it along by torch==VERSION --yes, `bisect` by --with torch==VERSION "
            "--yes"
        ) from error


def _said(error: Exception) -> str:
    """Return an error in one line, its files without the folders that differ between machines."""
    return clean(f"{type(error).__name__}: {_FOLDERS.sub('', str(error))}")


def package_folders() -> list[str]:
    """Import ExecuTorch, all of it from the release whose version is recorded, and say where it is.

    It is a namespace package: Python puts it together from every folder of its name on `sys.path`.
    So what a release lacks would come from the release below its environment, or from a checkout.
    """
    package = load("executorch")
    installed = Path(str(importlib.metadata.distribution("executorch").locate_file("executorch")))
    if installed.is_dir():  # not so where a checkout is installed
        package.__path__ = [str(installed)]
    return list(package.__path__)


def load(module: str) -> Any:
    """Import a module of ExecuTorch without the warnings that it prints about other packages."""
    with quiet():
        return importlib.import_module(module)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings: the exporter's are of its own code, and nobody can act on them."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def portable_kernels() -> frozenset[str]:
    """Return the operators that have a portable kernel, such as `aten::convolution.out`.

    As the installed package lists them. They are what a build for any device has.
    """
    folder = Path(load("executorch").__path__[0])
    text = (folder / "kernels" / "portable" / "functions.yaml").read_text(encoding="utf-8")
    names = re.findall(r"^- (?:op|func): ([\w:.]+)", text, flags=re.MULTILINE)
    return frozenset(name if "::" in name else f"aten::{name}" for name in names)
