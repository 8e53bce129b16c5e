"""A worker's own side: `python -m peft_regress.workers.serve` calls the functions that it is asked.

Questions come on standard input and replies go to standard output, one JSON object a line. What a
library prints, from Python or from C, goes to standard error: it must not break into a reply.
"""

import os
import sys
import typing
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any, Final

import msgspec

from peft_regress.runs.environment import describe_machine, installed_packages
from peft_regress.runs.schema import Failure, Machine

PROTOCOL: Final = 7
"""Raised when a message or the way of timing changes: both sides must have the same."""


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The first line of a worker."""

    protocol: int
    packages: dict[str, str]
    """The version of each package that a number can depend on."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A function to call, as `WorkerProcess.ask` names it, and its argument."""

    function: str
    request: msgspec.Raw


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the function returned, or the type and message of what it raised."""

    answer: msgspec.Raw = msgspec.Raw(b"null")
    refused: str | None = None


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """Modules to import by name, in this order."""

    modules: list[str]


class Imported(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The modules can be imported."""

    machine: Machine
    files: dict[str, str]
    """Where each module comes from, by name."""


def import_modules(request: Import) -> Imported:
    """Import modules, and say where they come from and what machine this is."""
    found = {name: import_module(name) for name in request.modules}
    files = {name: str(getattr(module, "__file__", None)) for name, module in found.items()}
    return Imported(machine=describe_machine(), files=files)


def serve() -> None:
    """Send a greeting, then answer each question, until there are none."""
    questions, replies = _private_streams()
    functions = Functions()

    def send(message: msgspec.Struct) -> None:
        replies.write(msgspec.json.encode(message) + b"\n")
        replies.flush()

    # A start-up file may have left a line unfinished.
    replies.write(b"\n")
    send(Hello(protocol=PROTOCOL, packages=installed_packages()))
    for line in questions:
        try:
            question = msgspec.json.decode(line, type=Question)
            answer = functions.call(question.function, question.request)
            send(Reply(answer=msgspec.Raw(msgspec.json.encode(answer))))
        except Exception as error:  # noqa: BLE001  (a library may raise anything)
            failure = Failure.of(error)
            send(Reply(refused=f"{failure.type}: {failure.message}"))


class Functions:
    """Functions by name, and an object of each class whose methods were called."""

    def __init__(self) -> None:
        self._objects: dict[type, object] = {}

    def call(self, function: str, request: msgspec.Raw, *before: object) -> Any:
        """Call a function with what stands before the request, and the request, by its type."""
        called = self.named(function)
        *_, kind = (of for name, of in typing.get_type_hints(called).items() if name != "return")
        return called(*before, msgspec.json.decode(request, type=kind))

    def named(self, function: str) -> Callable[..., Any]:
        """Return the function of "module:function", or the method of "module:Class.method"."""
        module, _, path = function.partition(":")
        found: Any = import_module(module)
        for name in path.split("."):
            if isinstance(found, type):
                if found not in self._objects:
                    self._objects[found] = found()
                found = self._objects[found]
            found = getattr(found, name)
        called: Callable[..., Any] = found
        return called


def _private_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Take standard input and output away from every other code in this process."""
    questions, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return questions, replies


if __name__ == "__main__":
    serve()
