"""Find ExecuTorch, an extra: everything else works without it."""

import contextlib
import importlib.metadata
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from peft_regress.errors import InputError, PeftRegressError, UnsupportedCaseError
from peft_regress.text import clean

INSTALL: Final = "python -m pip install 'executorch>=1.4'"
"""The command that installs the runtime."""


class UnsupportedProgramError(UnsupportedCaseError):
    """ExecuTorch cannot express or run this program."""


class ProgramError(PeftRegressError):
    """ExecuTorch fails on this program."""


def require_executorch(*, runs: bool) -> None:
    """Import ExecuTorch's exporter, and if `runs` its runtime.

    The exporter is Python code; the runtime was built for one release of torch. Raises `InputError`
    if ExecuTorch is not installed, or does not import beside the installed torch.
    """
    try:
        version = importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"executorch is not installed: {INSTALL}") from None
    try:
        _only_one_release()
        load("executorch.exir")
        if runs:
            load("executorch.extension.training")
    except (ImportError, AttributeError, OSError) as error:
        raise InputError(
            f"executorch {version} does not import beside torch "
            f"{importlib.metadata.version('torch')}: {clean(f'{type(error).__name__}: {error}')}. "
            "Install the executorch that was built for this torch, or the torch that it was built "
            "for: `upgrade` takes it along by torch==VERSION --yes, `bisect` by --with "
            "torch==VERSION --yes"
        ) from error


def _only_one_release() -> None:
    """Import ExecuTorch, all of it from the release whose version is recorded."""
    # It is a namespace package: Python puts it together from every folder of its name on
    # `sys.path`. So what a release lacks would come from a release below it, or from a checkout.
    package = load("executorch")
    installed = Path(str(importlib.metadata.distribution("executorch").locate_file("executorch")))
    if installed.is_dir():  # not so where a checkout is installed
        package.__path__ = [str(installed)]


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
        with warnings.catch_warnings(action="ignore"):
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
