"""Put a fault in its place, and know afterwards whether it ran and whether it still fits."""

from __future__ import annotations

import functools
import importlib
import inspect
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fault_catalogue.fault import Fault, InjectedError
from peft_regress.errors import PeftRegressError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BrokenFaultError", "Injection", "injected"]


class BrokenFaultError(PeftRegressError):
    """A fault that no longer fits the code that it is put into."""


@dataclass
class Injection:
    """What became of a fault: how often each of its places was called, and what failed in it."""

    calls: dict[str, int] = field(default_factory=dict)
    failure: str | None = None

    def complaint(self) -> str | None:
        """Say why nothing that was measured under the fault counts; None where it does."""
        if self.failure is not None:
            return f"the fault itself fails: {self.failure}"
        unreached = [place for place, count in self.calls.items() if not count]
        return f"never ran: nothing calls {', '.join(unreached)}" if unreached else None


@contextmanager
def injected(fault: Fault) -> Iterator[Injection]:
    """Replace what the fault replaces, for a while.

    Raises `BrokenFaultError` where a place of it does not exist.
    """
    injection = Injection()
    with ExitStack() as stack:
        for place in fault.at:
            stack.enter_context(_replaced(place, fault, injection))
        yield injection


@contextmanager
def _replaced(place: str, fault: Fault, injection: Injection) -> Iterator[None]:
    owner, name, found = _find(place)
    kind = type(found) if isinstance(found, (classmethod, staticmethod)) else None
    wrapper = _wrapper(found.__func__ if kind else found, place, fault, injection)
    inherited = name not in vars(owner)
    setattr(owner, name, kind(wrapper) if kind else wrapper)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, found)


def _find(place: str) -> tuple[Any, str, Any]:
    """Return the module or class that has the function, the function's name there, and itself."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    try:
        owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
        return owner, name, inspect.getattr_static(owner, name)
    except (AttributeError, ImportError) as error:
        msg = f"there is no {place} any more: find where it went, and mend the fault"
        raise BrokenFaultError(msg) from error


def _wrapper(
    original: Callable[..., Any], place: str, fault: Fault, injection: Injection
) -> Callable[..., Any]:
    injection.calls[place] = 0

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        injection.calls[place] += 1
        of_the_original: list[Exception] = []

        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            except Exception as error:
                # Without a frame further in, the call did not fit the function's parameters.
                if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                    of_the_original.append(error)
                raise

        try:
            return fault.replacement(watched, *args, **kwargs)
        except Exception as error:
            if error not in of_the_original and not isinstance(error, InjectedError):
                injection.failure = f"{type(error).__name__}: {error}"
            raise

    return call
