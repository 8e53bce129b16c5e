"""Call the functions of a case of one's own; an error of theirs becomes one line with its place."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.text import clean, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE: Final = str(Path(__file__).resolve().parents[1])
_STANDARD_LIBRARY: Final = sysconfig.get_path("stdlib")
_INSTALLED: Final = {"site-packages", "dist-packages"}


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
        msg = f"{what} raised {told(error)}"
        raise CaseError(msg) from error


def told(error: BaseException) -> str:
    """Return type, message and place of an error, on one line."""
    said = clean(str(error))
    place = _place(error)
    return type(error).__name__ + (f": {said}" if said else "") + (f" ({place})" if place else "")


def _place(error: BaseException) -> str:
    """Return file and line of the innermost frame that is neither a library's nor this package's.

    Empty if there is none.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename
        is_library = file.startswith((_PACKAGE, _STANDARD_LIBRARY, "<frozen"))
        if not is_library and _INSTALLED.isdisjoint(Path(file).parts):
            return printable(f"{Path(file).name}:{frame.lineno}")
    return ""
