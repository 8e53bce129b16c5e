"""Call the functions of a case of one's own; an error of theirs becomes one line with its place."""

import contextlib
from collections.abc import Iterator

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.imports import told


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
