"""A fault: one function of a library, or of this project, that does something wrong."""

import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar

from fault_catalogue.own_case import CONVOLUTION, OTHER_CASES

Area = Literal[
    "LoRA",
    "DoRA",
    "GaLore",
    "other adapters",
    "language model",
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
FINETUNE: Final = "peft_regress.measure.training:finetune"


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
            at, also, case = stated.pop("at"), stated.pop("also", ()), stated.pop("case", "")
            case = case or OTHER_CASES[name.partition("_")[0]].id
            made = Fault(
                name=name.replace("_", "-"),
                area=area,
                wrong=" ".join((inspect.getdoc(replacement) or "").split()),
                case=case if "/" in case else f"shift/{case}/shufflenet_v2_x0_5",
                at=(at,) if isinstance(at, str) else at,
                replacement=replacement,
                **stated,
            )
            for one in (made, *(_tried_elsewhere(made, prefix) for prefix in also)):
                if FAULTS.setdefault(one.name, one) is not one:
                    raise ValueError(f"there are two faults {one.name}")


def _tried_elsewhere(made: Fault, prefix: str) -> Fault:
    other = OTHER_CASES[prefix]
    return replace(
        made,
        name=f"{prefix}-{made.name.removeprefix('lora-')}",
        area="language model" if other.id.startswith("folio/") else made.area,
        wrong=f"{made.wrong.removesuffix('.')}, in {other.words}.",
        case=other.id,
        at=tuple(target.replace(CONVOLUTION, other.layer) for target in made.at),
    )


def passing(wrong: str, settings: dict[str, Any], **stated: Any) -> Callable[..., Any]:
    """Return a fault that passes other keyword arguments than those that were asked for."""

    @fault(**stated)
    def replacement(original, *args, **kwargs):
        return original(*args, **{**kwargs, **settings})

    replacement.__doc__ = wrong
    return replacement


def before_each_step(act: Callable[..., Any]) -> Callable[..., Any]:
    """Return a fault in `FINETUNE`: `act` gets the step from 1, the model and the optimizer."""

    @functools.wraps(act)
    def replacement(original, model, optimizer, *rest, **kwargs):
        steps = itertools.count(1)
        handle = optimizer.register_step_pre_hook(lambda *_: act(next(steps), model, optimizer))
        try:
            return original(model, optimizer, *rest, **kwargs)
        finally:
            handle.remove()

    return replacement


def fault(**stated: Any) -> Callable[[_Function], _Function]:
    """State `at`, `case` or `stops` for one function; `also`: the other cases that it is tried in.

    A method's name stands for its case; without a case the prefix of the fault's name does.
    """

    def state(replacement: _Function) -> _Function:
        vars(replacement)["stated"] = stated
        return replacement

    return state
