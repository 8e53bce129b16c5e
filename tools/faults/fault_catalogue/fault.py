"""A fault: one function of a library, or of this project, that does something wrong."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["AREAS", "Area", "Fault", "InjectedError", "fault"]

Area = Literal[
    "LoRA",
    "DoRA",
    "GaLore",
    "other adapters",
    "several adapters",
    "optimizers",
    "data",
    "training loop",
    "BatchNorm",
    "base model",
    "counting",
    "serialisation",
    "memory",
    "later steps",
    "some cases alone",
]
AREAS: Final[dict[Area, None]] = dict.fromkeys(Area.__args__)  # type: ignore[attr-defined]


class InjectedError(NotImplementedError):
    """An error that a fault raises on purpose, not because the fault is out of date."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A mistake that a library, or this project, could make."""

    name: str
    area: Area
    wrong: str
    """What is wrong, in one sentence."""
    case: str
    """The id of the cheapest case that it concerns."""
    at: tuple[str, ...]
    """The functions that it replaces, each `module:function` or `module:Class.method`."""
    replacement: Callable[..., Any]
    """Called instead, with the original function and then its arguments."""
    stops: bool = False
    """Whether the library stops there, instead of computing something else."""


def fault(
    area: Area, *, at: str | tuple[str, ...], case: str, stops: bool = False
) -> Callable[[Callable[..., Any]], Fault]:
    """Make a function a fault: it is called instead of those in `at`, with the original first.

    The function's name becomes the fault's name, its docstring the fault's `wrong`.
    """

    def make(replacement: Callable[..., Any]) -> Fault:
        return Fault(
            name=replacement.__name__.replace("_", "-"),
            area=area,
            wrong=" ".join((inspect.getdoc(replacement) or "").split()),
            case=case,
            at=(at,) if isinstance(at, str) else at,
            replacement=replacement,
            stops=stops,
        )

    return make
