"""What a fault is: one function of a library, or of this project, that does something else."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    Original = Callable[..., Any]

__all__ = ["AREAS", "Area", "Fault", "InjectedError", "fault"]

Area = Literal[
    "LoRA",
    "DoRA",
    "GaLore",
    "other adapters",
    "optimizers",
    "data",
    "training loop",
    "BatchNorm",
    "base model",
    "counting",
    "serialisation",
]
AREAS: Final[dict[Area, None]] = dict.fromkeys(Area.__args__)  # type: ignore[attr-defined]


class InjectedError(NotImplementedError):
    """What a fault raises that is an error by intention, and not because it is out of date."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A change that a library, or this project, could get wrong.

    Attributes:
        wrong: what is wrong, a sentence.
        cases: ids of the cheapest cases that it concerns.
        at: the functions that it replaces, each `module:function` or `module:Class.method`.
        replacement: called in their place, the original first, then its arguments.
        stops: whether the library stops there instead of computing something else.
        unseen: why nothing sees it, where that is known and stated.
    """

    name: str
    area: Area
    wrong: str
    cases: tuple[str, ...]
    at: tuple[str, ...]
    replacement: Callable[..., Any]
    stops: bool = False
    unseen: str = ""


def fault(
    area: Area, *, at: str | tuple[str, ...], case: str, stops: bool = False, unseen: str = ""
) -> Callable[[Callable[..., Any]], Fault]:
    """Make a function a fault: it is called instead of the one `at` a place, which it gets first.

    Its name becomes the fault's, its docstring says what is wrong.
    """

    def make(replacement: Callable[..., Any]) -> Fault:
        return Fault(
            name=replacement.__name__.replace("_", "-"),
            area=area,
            wrong=" ".join((inspect.getdoc(replacement) or "").split()),
            cases=(case,),
            at=(at,) if isinstance(at, str) else at,
            replacement=replacement,
            stops=stops,
            unseen=unseen,
        )

    return make
