"""A fault: one function of a library, or of this project, that does something wrong."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar

from fault_catalogue.own_case import OWN

__all__ = ["AREAS", "FAULTS", "Area", "Fault", "Faults", "InjectedError", "fault"]

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
_Function = TypeVar("_Function", bound=Callable[..., Any])
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


FAULTS: Final[dict[str, Fault]] = {}
"""By name."""


class Faults:
    """Faults of one area: each function of a subclass is one, called instead of those in `at`.

    It gets the original function first. Its name becomes the fault's name, its docstring the
    fault's `wrong`. What a subclass states, `fault` changes for one function. Raises `ValueError`
    for a name that is taken.
    """

    def __init_subclass__(cls, *, area: Area, **shared: Any) -> None:
        """Add the functions to `FAULTS`."""
        for name, replacement in vars(cls).items():
            if not inspect.isfunction(replacement):
                continue
            stated = {**shared, **getattr(replacement, "stated", {})}
            at, in_own_case = stated.pop("at"), stated.pop("in_own_case", False)
            made = Fault(
                name=name.replace("_", "-"),
                area=area,
                wrong=" ".join((inspect.getdoc(replacement) or "").split()),
                at=(at,) if isinstance(at, str) else at,
                replacement=replacement,
                **stated,
            )
            wrong = f"{made.wrong.removesuffix('.')}, in an own case."
            own = replace(made, name=f"own-{made.name}", wrong=wrong, case=OWN.id)
            for one in (made, own) if in_own_case else (made,):
                if FAULTS.setdefault(one.name, one) is not one:
                    raise ValueError(f"there are two faults {one.name}")


def fault(**stated: Any) -> Callable[[_Function], _Function]:
    """State `at`, `case` or `stops` for one function; `in_own_case`: it is tried there as well."""

    def state(replacement: _Function) -> _Function:
        vars(replacement)["stated"] = stated
        return replacement

    return state
