"""Inject a fault; say afterwards whether it ran, and whether it still fits the code."""

import functools
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from fault_catalogue.fault import Fault, InjectedError
from peft_regress.errors import PeftRegressError

__all__ = ["BrokenFaultError", "Injection", "injected"]


class BrokenFaultError(PeftRegressError):
    """A fault that no longer fits the code that it changes."""


@dataclass
class Injection:
    """How often each function of a fault was called, and what failed inside the fault."""

    calls: dict[str, int] = field(default_factory=dict)
    failure: str | None = None

    def complaint(self) -> str | None:
        """Say why nothing that was measured under the fault counts; None if it counts."""
        if self.failure is not None:
            return f"the fault itself fails: {self.failure}"
        unreached = [target for target, count in self.calls.items() if not count]
        return f"never ran: nothing calls {', '.join(unreached)}" if unreached else None


@contextmanager
def injected(fault: Fault) -> Iterator[Injection]:
    """Replace the fault's functions until the block ends.

    Raises `BrokenFaultError` if one of them does not exist.
    """
    injection = Injection()
    with ExitStack() as stack:
        for target in fault.at:
            stack.enter_context(_replaced(target, fault, injection))
        yield injection


@contextmanager
def _replaced(target: str, fault: Fault, injection: Injection) -> Iterator[None]:
    owner, name, found = _find(target)
    kind = type(found) if isinstance(found, (classmethod, staticmethod)) else None
    wrapper = _wrapper(found.__func__ if kind else found, target, fault, injection)
    inherited = name not in vars(owner)
    setattr(owner, name, kind(wrapper) if kind else wrapper)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, found)


def _find(target: str) -> tuple[Any, str, Any]:
    """Return the module or class that has the function, its name there, and the function."""
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    try:
        owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
        return owner, name, inspect.getattr_static(owner, name)
    except (AttributeError, ImportError) as error:
        raise BrokenFaultError(
            f"{target} no longer exists: find where it went, and update the fault"
        ) from error


def _wrapper(
    original: Callable[..., Any], target: str, fault: Fault, injection: Injection
) -> Callable[..., Any]:
    injection.calls[target] = 0

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        injection.calls[target] += 1
        try:
            return fault.replacement(original, *args, **kwargs)
        except Exception as error:
            # Raised by a line of the fault, or by a call there that no longer fits.
            last = traceback.extract_tb(error.__traceback__)[-1].filename
            made = (fault.replacement, inspect.unwrap(fault.replacement))
            is_its_own = last in map(inspect.getfile, made)
            if is_its_own and not isinstance(error, InjectedError):
                injection.failure = f"{type(error).__name__}: {error}"
            raise

    return call
