"""A worker's own side: answer the requests of standard input, one a line, on standard output.

What a library prints, from Python or from C, goes to standard error: it must not break into an
answer. A worker ends when its standard input ends, so it never outlives the process that started
it.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from peft_regress.runs.environment import installed_packages
from peft_regress.runs.schema import Failure
from peft_regress.workers.messages import PROTOCOL, Hello, Prepare, Refused

if TYPE_CHECKING:
    from peft_regress.measure.recipe import Recipe


def serve(
    handlers: Mapping[type[msgspec.Struct], Callable[[Any], msgspec.Struct]],
    *,
    streams: tuple[IO[bytes], IO[bytes]] | None = None,
) -> None:
    """Send a greeting, then answer each request by the handler of its type, until there are none.

    An exception in a handler is the answer `Refused`. `streams` are requests and answers, by
    default standard input and output, which nothing else in this process can use from then on.
    """
    requests, answers = streams or _private_streams()
    request_type: Any = functools.reduce(operator.or_, handlers)

    def send(message: msgspec.Struct) -> None:
        answers.write(msgspec.json.encode(message) + b"\n")
        answers.flush()

    # A start-up file may have left a line unfinished.
    answers.write(b"\n")
    send(Hello(protocol=PROTOCOL, packages=installed_packages()))
    for line in requests:
        try:
            request = msgspec.json.decode(line, type=request_type)
            send(handlers[type(request)](request))
        except Exception as error:  # noqa: BLE001  (a library may raise anything)
            failure = Failure.of(error)
            send(Refused(error=f"{failure.type}: {failure.message}"))


def recipe_of(request: Prepare) -> Recipe:
    """Return the case of a request with its parts looked up.

    Raises `UnknownNameError`, and `InputError` for own cases that cannot be imported here.
    """
    from peft_regress.catalogue.matrix import parse_case_id
    from peft_regress.catalogue.own_cases import use_settings
    from peft_regress.measure.recipe import Recipe
    from peft_regress.settings import Settings, read_settings

    if request.own is None:
        use_settings(Settings(folder=Path.cwd(), baselines=Path(request.baselines)))
    else:
        settings = read_settings(Path(request.own.folder))
        use_settings(dataclasses.replace(settings, cases=tuple(request.own.paths)))
    return Recipe.of(parse_case_id(request.case), Path(request.baselines))


def _private_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Take standard input and output away from every other code in this process."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return requests, answers
