"""A worker's own side: answer the requests of standard input, a line each, on standard output.

A library that prints, from Python or from C, writes to standard error: it must not break into an
answer. A worker ends with its standard input, so that it never outlives who started it.
"""

from __future__ import annotations

import os
import sys
from typing import IO, TYPE_CHECKING, Any

import msgspec

from peft_regress.environments.worker.messages import Hello, Refused
from peft_regress.runs.environment import installed_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["private_streams", "serve"]


def private_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Take standard input and output away from everyone else."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return requests, answers


def serve(
    requests: IO[bytes],
    answers: IO[bytes],
    *,
    protocol: int,
    request_type: Any,
    answer: Callable[[Any], Iterable[msgspec.Struct]],
) -> None:
    """Say hello, then answer each request in turn; whatever goes wrong is an answer too.

    `answer` may say several things of one request, each as soon as it knows it.
    """

    def say(message: msgspec.Struct) -> None:
        answers.write(msgspec.json.encode(message) + b"\n")
        answers.flush()

    # A start-up file may have left a line unfinished.
    answers.write(b"\n")
    say(Hello(protocol=protocol, packages=installed_packages()))
    for line in requests:
        try:
            for message in answer(msgspec.json.decode(line, type=request_type)):
                say(message)
        except Exception as error:  # noqa: BLE001  (what a library raises is the case's state)
            told = str(error).encode("utf-8", "backslashreplace").decode().strip()
            say(Refused(error=f"{type(error).__name__}: {told or 'no message'}"))
