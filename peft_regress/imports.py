"""Import objects by path and call them; say in one line why that failed.

A failing import of foreign code is wrong use of this package, so it is an `InputError` that names
the file and line where the error was raised, and no traceback. So is a failing call of it.
"""

import contextlib
import importlib
import logging
import operator
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from peft_regress.errors import InputError, PeftRegressError, UnknownNameError
from peft_regress.text import clean, printable, redacted

_DOTTED: Final = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_PATH: Final = re.compile(rf"(?P<module>{_DOTTED}):(?P<name>{_DOTTED})")
_LONGEST_MESSAGE: Final = 200

_PACKAGE: Final = str(Path(__file__).resolve().parent)
_STANDARD_LIBRARY: Final = sysconfig.get_path("stdlib")
INSTALLED: Final = {"site-packages", "dist-packages"}
"""The names of folders that hold installed packages."""

# When it is imported, bitsandbytes logs that it lacks a 4-bit kernel, or code for a GPU. peft and
# galore_torch import it, and nothing here uses it. Its advice to install `kernels` would mislead,
# and so would what `kernels` logs where it is installed.
# torchao, which ExecuTorch requires and peft imports where it is installed, logs that it lacks code
# for a GPU and triton, and torch that torchao registers types in an old way.
_NOISE: Final = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "bitsandbytes.cextension": "The installed version of bitsandbytes was compiled without ",
    "kernels._internals.hf_hub": "Skipping publisher trust check for 'kernels-community/",
    "torch.utils._pytree": "%s is an Enum subclass and is now natively supported",
    "torchao": "Failed to load ",
    "torchao.kernel.intmm": "Warning: Detected no triton",
}
"""The beginning of a misleading line, by the logger that writes it."""


def drop_noise() -> None:
    """Drop the misleading lines of a library's log from now on.

    Also later, since some releases of peft import bitsandbytes only when they wrap a model.
    """
    for logger in _NOISE:
        logging.getLogger(logger).addFilter(_is_signal)


def _is_signal(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NOISE[record.name])


@contextlib.contextmanager
def current_folder_first() -> Iterator[None]:
    """Import from the current folder first, as `python -m` does."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def import_object(path: str, *, folder: Path | None, is_wanted: Callable[[Any], bool]) -> Any:
    """Return the object of an import path `pkg.mod:NAME`, or of an attribute, `pkg.mod:A.b`.

    folder: comes first on `sys.path`, and stays there, since functions may import later.
    is_wanted: what a message lists if there is no such name. Raises `InputError` for a text of
    another form, for a module that does not import and for a name that it does not have.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise InputError(f"{path!r} is not an import path: it has the form pkg.mod:NAME")
    if folder is not None and str(folder) not in sys.path[:1]:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
    module_name, name = match["module"], match["name"]
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (the code of a user may raise anything)
        problem = _problem(error, module_name, folder)
        raise InputError(f"{path!r} does not import: {problem}") from None
    try:
        return operator.attrgetter(name)(module)
    except AttributeError:
        known = [key for key, value in vars(module).items() if is_wanted(value)]
        raise UnknownNameError(f"name in module {module_name}", name, known) from None


class CaseError(InputError):
    """A function of a case fails, or the parts of the case do not fit each other.

    Wrong use of a case that was never measured; of any other case a state to compare, since a
    release of a library may be the cause.
    """


@contextlib.contextmanager
def calling(what: str) -> Iterator[None]:
    """Turn what a function raises into a `CaseError` that names it, the error and the line."""
    try:
        yield
    except PeftRegressError:
        raise
    except Exception as error:
        raise CaseError(f"{what} raised {told(error)}") from error


def told(error: BaseException) -> str:
    """Return type, message and place of an error of foreign code, on one line."""
    place = _place(error)
    if isinstance(error, SyntaxError):
        text = f"SyntaxError: {error.msg}"
        place = _shown(error.filename or "", error.lineno)
    elif isinstance(error, InputError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    # Before it is cut: a part of a secret is not recognized.
    shown = clean(redacted(text.rstrip(": ")), longest=_LONGEST_MESSAGE)
    return shown if place is None else f"{shown} ({printable(place)})"


def _problem(error: BaseException, module: str, folder: Path | None) -> str:
    absent = error.name if isinstance(error, ModuleNotFoundError) else None
    if absent is not None and f"{module}.".startswith(f"{absent}."):
        where = "" if folder is None else f" in {folder} or"
        return f"there is no module {absent!r}{where} among the installed packages"
    return told(error)


def _place(error: BaseException) -> str | None:
    """Return the place of the user's innermost code, or else of an installed package's."""
    places: dict[bool, str] = {}  # by whether the code is installed
    for frame in traceback.extract_tb(error.__traceback__):
        # First: installed packages lie in a folder of the standard library.
        is_installed = not INSTALLED.isdisjoint(Path(frame.filename).parts)
        is_python = frame.filename.startswith((_STANDARD_LIBRARY, "<"))
        if not frame.filename.startswith(_PACKAGE) and (is_installed or not is_python):
            places[is_installed] = _shown(frame.filename, frame.lineno)
    return places.get(False, places.get(True))


def _shown(file: str, line: int | None) -> str:
    """Return a place without the folders that differ between machines: records keep messages."""
    parts = Path(file).parts
    inside = [index for index, part in enumerate(parts) if part in INSTALLED]
    name = "/".join(parts[inside[-1] + 1 :]) if inside else Path(file).name
    return f"{name}, line {line}"
