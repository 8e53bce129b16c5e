"""Whether a fact holds, and where it does not; the tensors of a model, of which facts are."""

import contextlib
import functools
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from peft_regress.runs.schema import Defect, Failure
from peft_regress.text import clean, redacted

P = ParamSpec("P")
T = TypeVar("T")

_MOST_NAMES: Final = 4
_LARGEST: Final = 1e100
"""Stands for a size that is infinite or NaN, which no record holds."""


class Fact(NamedTuple):
    """True, false, or None if it does not apply."""

    holds: bool | None
    note: str = ""
    """Where it is false, or why it does not apply."""
    defect: Defect = Defect()
    """What the gate compares where it is false; if it has no parts, the words of the note."""


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many there are beyond them."""
    shown = ", ".join(names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def gravity(size: float) -> tuple[bool, float]:
    """Return how bad a difference is, to sort by: NaN is worst."""
    return math.isnan(size), size


class FactError(Exception):
    """Ends a check that does not hold, or does not apply."""

    def __init__(self, fact: Fact) -> None:
        super().__init__(fact.note)
        self.fact = fact


def false(
    note: str,
    *,
    error: Exception | None = None,
    tensors: Sequence[str] = (),
    size: float | None = None,
) -> FactError:
    """Return that it does not hold: by what error, for which tensors, and how far it is off."""
    defect = Defect(
        error=None if error is None else Failure.of(error),
        tensors=list(tensors),
        size=size if size is None or size <= _LARGEST else _LARGEST,
    )
    return FactError(Fact(holds=False, note=redacted(note), defect=defect))


def null(note: str) -> FactError:
    """Return that it does not apply."""
    return FactError(Fact(holds=None, note=redacted(note)))


def check_none(wrong: Sequence[str], said: str = "") -> None:
    """Raise `FactError` if anything is wrong, naming it after what is said of it."""
    if wrong:
        raise false(said + listed(wrong), tensors=wrong)


def judged(check: Callable[P, None]) -> Callable[P, Fact]:
    """Let a check return true, unless it raises `FactError` or the library raises."""

    @functools.wraps(check)
    def fact(*args: P.args, **kwargs: P.kwargs) -> Fact:
        try:
            check(*args, **kwargs)
        except FactError as error:
            return error.fact
        except Exception as error:  # noqa: BLE001  (whatever a library raises, it does not hold)
            return raised(error)
        return Fact(holds=True)

    return fact


@contextlib.contextmanager
def refused(what: str, *kinds: type[Exception], said: str = "") -> Iterator[None]:
    """Let a check not apply where the library refuses something by such an error, in such words."""
    try:
        yield
    except kinds as error:
        if said not in str(error):
            raise
        raise null(f"{what}: {told_of(error)}") from error


def attempt(action: Callable[[], T]) -> T | None:
    """Return what a library returns; None if it raises, which another fact says."""
    try:
        return action()
    except Exception:  # noqa: BLE001  (whatever a library raises)
        return None


def raised(error: Exception) -> Fact:
    """Return that a fact does not hold, since a library raises."""
    return false(f"the library raises {told_of(error)}", error=error).fact


def told_of(error: Exception) -> str:
    """Return what an error says, and in which layer it was raised."""
    layer = _layer_of(error)
    said = f"{type(error).__name__}: {clean(redacted(str(error)))}"
    return said + (f", in {layer}" if layer else "")


def _layer_of(error: Exception) -> str:
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    owners = (frame.f_locals.get("self") for frame in frames)
    modules = [owner for owner in owners if isinstance(owner, nn.Module)]
    if not modules:
        return ""
    names = {module: name for name, module in modules[0].named_modules()}
    return next((names[module] for module in reversed(modules) if names.get(module)), "")


def trainable(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each parameter that requires a gradient."""
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}


def named_tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """Return all parameters and buffers."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def copies_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that are not bit-identical any more, or not there."""
    return [n for n, was in before.items() if n not in after or not torch.equal(was, after[n])]
