"""Whether a fact holds, and where it does not; the tensors of a model, of which facts are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from peft_regress.runs.schema import Defect, Failure
from peft_regress.text import clean, redacted

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

    @classmethod
    def false(
        cls,
        note: str,
        *,
        error: Exception | None = None,
        tensors: Sequence[str] = (),
        size: float | None = None,
    ) -> Fact:
        """Return that it does not hold: by what error, for which tensors, and how far it is off."""
        defect = Defect(
            error=None if error is None else Failure.of(error),
            tensors=list(tensors),
            size=size if size is None or size <= _LARGEST else _LARGEST,
        )
        return cls(holds=False, note=redacted(note), defect=defect)

    @classmethod
    def null(cls, note: str) -> Fact:
        """Return that it does not apply."""
        return cls(holds=None, note=redacted(note))

    @classmethod
    def unless(cls, wrong: Sequence[str]) -> Fact:
        """Return whether nothing is wrong, naming what is."""
        return cls.false(listed(wrong), tensors=wrong) if wrong else cls(holds=True)


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many there are beyond them."""
    shown = ", ".join(names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


class Attempt(NamedTuple, Generic[T]):
    """What a library returned, or why it did not."""

    result: T | None
    worked: Fact = Fact(holds=True)
    """Whether it did; if not, what it raised, and in which layer."""


def attempt(action: Callable[[], T]) -> Attempt[T]:
    """Call a library; if it raises, the fact does not hold."""
    try:
        return Attempt(action())
    except Exception as error:  # noqa: BLE001  (whatever a library raises, the fact does not hold)
        return Attempt(None, raised(error))


def raised(error: Exception) -> Fact:
    """Return that a fact does not hold, since a library raises."""
    return Fact.false(f"the library raises {told_of(error)}", error=error)


def told_of(error: Exception) -> str:
    """Return what an error says, and in which layer it was raised."""
    layer = _layer_of(error)
    said = f"{type(error).__name__}: {clean(redacted(str(error)))}"
    return said + (f", in {layer}" if layer else "")


def _layer_of(error: Exception) -> str:
    modules = []
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            modules.append(owner)
        trace = trace.tb_next
    if not modules:
        return ""
    names = {module: name for name, module in modules[0].named_modules()}
    return next((names[module] for module in reversed(modules) if names.get(module)), "")


# --- Tensors --------------------------------------------------------------------------------------


def trainable(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each parameter that requires a gradient."""
    return {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def named_tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """Return all parameters and buffers."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def copies_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that are not bit-identical any more, or not there."""
    return [
        name
        for name, tensor in before.items()
        if name not in after or not torch.equal(tensor, after[name])
    ]
