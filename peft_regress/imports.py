"""Import what a user or another package names, and say in one line why it failed.

A failing import of foreign code is wrong use of this package, so it is an `InputError` that names
the file and line where the error was raised, and no traceback.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peft_regress.errors import InputError, UnknownNameError
from peft_regress.text import clean, printable

if TYPE_CHECKING:
    from collections.abc import Callable

_PATH: Final = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*)")
_LONGEST_MESSAGE: Final = 200

# bitsandbytes warns at import that a 4-bit kernel is not installed. Nothing here uses 4 bits, and
# its advice to install `kernels` would mislead readers of the report.
_NOISY_LOGGER: Final = "bitsandbytes.backends.cpu.ops"
_NOISE: Final = "Failed to load CPU gemm_4bit_forward"


def drop_noise() -> None:
    """Drop one misleading line of a library's log from now on.

    Also later, since some releases of peft import bitsandbytes only when they wrap a model.
    """
    logging.getLogger(_NOISY_LOGGER).addFilter(_is_signal)


def _is_signal(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NOISE)


def import_object(path: str, *, folder: Path | None, is_wanted: Callable[[Any], bool]) -> Any:
    """Return the object of an import path `pkg.mod:NAME`.

    folder: comes first on `sys.path`, and stays there, since functions may import later.
    is_wanted: what a message lists if there is no such name. Raises `InputError` for a text of
    another form, for a module that does not import and for a name that it does not have.
    """
    drop_noise()
    match = _PATH.fullmatch(path)
    if match is None:
        msg = f"{path!r} is not an import path: it has the form pkg.mod:NAME"
        raise InputError(msg)
    if folder is not None and str(folder) not in sys.path[:1]:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
    module_name, name = match["module"], match["name"]
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (the code of a user may raise anything)
        msg = f"{path!r} does not import: {_problem(error, module_name, folder)}"
        raise InputError(printable(msg)) from None
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if is_wanted(value)]
        what = f"name in module {module_name}"
        raise UnknownNameError(what, name, known)
    return getattr(module, name)


def told(error: BaseException) -> str:
    """Return an error's type, message and place on one line."""
    if isinstance(error, SyntaxError):
        written = f"{error.filename}, line {error.lineno}"
        return f"SyntaxError: {clean(error.msg, longest=_LONGEST_MESSAGE)} ({written})"
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    shown = clean(text.rstrip(": "), longest=_LONGEST_MESSAGE)
    place = _place(error)
    return shown if place is None else f"{shown} ({place})"


def _problem(error: BaseException, module: str, folder: Path | None) -> str:
    absent = error.name if isinstance(error, ModuleNotFoundError) else None
    if absent is not None and f"{module}.".startswith(f"{absent}."):
        where = "" if folder is None else f" in {folder} or"
        return f"there is no module {absent!r}{where} among the installed packages"
    return told(error)


def _place(error: BaseException) -> str | None:
    """Return file and line of the last code outside Python and this package that was running."""
    package, standard = str(Path(__file__).parent), (sysconfig.get_path("stdlib"), "<")
    outside = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(package)
        # Installed packages lie in a folder of the standard library's.
        and ("site-packages" in frame.filename or not frame.filename.startswith(standard))
    ]
    return f"{outside[-1].filename}, line {outside[-1].lineno}" if outside else None
