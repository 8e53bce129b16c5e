"""Call the functions of a case of one's own; an error of theirs becomes one line with its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from peft_regress.cost.stand_ins import restored_containers
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


@contextlib.contextmanager
def without_traces(function: Callable[..., Any] | None) -> Iterator[None]:
    """Take back what a function keeps meanwhile: of fake tensors, a history has no values.

    Covers the variables around it that it names, its object, and the containers in both.
    """
    plain: Any = getattr(function, "__func__", function)
    owner = getattr(getattr(function, "__self__", function), "__dict__", {})
    cells = getattr(plain, "__closure__", None) or ()
    space = getattr(plain, "__globals__", {})
    of_cells = [cell.cell_contents for cell in cells]
    names = plain.__code__.co_names if space else ()
    of_space = {name: space[name] for name in names if name in space}
    try:
        with restored_containers([owner, *owner.values(), *of_cells, *of_space.values()]):
            yield
    finally:
        space.update(of_space)
        for cell, value in zip(cells, of_cells, strict=True):
            cell.cell_contents = value
