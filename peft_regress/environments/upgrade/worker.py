"""Measure cases on request: `python -m peft_regress.environments.upgrade.worker`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.catalogue.methods.quiet_import import import_quietly
from peft_regress.environments.upgrade.messages import (
    PROTOCOL,
    Answer,
    Failed,
    Import,
    Imported,
    Measure,
    Measured,
    Request,
    Started,
)
from peft_regress.environments.worker.serve import private_streams, serve
from peft_regress.errors import PeftRegressError
from peft_regress.runs.schema import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft_regress.measure.step_profile import ProfileCache

__all__ = ["answers_to", "main"]


def main() -> None:
    """Answer requests until there are no more."""
    serve(*private_streams(), protocol=PROTOCOL, request_type=Request, answer=answers_to)


def answers_to(request: Request) -> Iterator[Answer]:
    """Do what is asked, and tell each part as soon as it is done."""
    if isinstance(request, Import):
        yield _import(request)
        return
    yield from _measure(request)


def _import(request: Import) -> Imported:
    from peft_regress.runs.environment import describe_machine

    found = {name: import_quietly(name) for name in request.modules}
    files = {name: str(getattr(module, "__file__", None)) for name, module in found.items()}
    return Imported(machine=describe_machine(), files=files)


def _measure(request: Measure) -> Iterator[Answer]:
    from peft_regress.catalogue.matrix import parse_case_id
    from peft_regress.measure import Recipe, define, measure

    recipe = Recipe.of(parse_case_id(request.case), Path(request.baselines))
    yield Started(definition=define(recipe))
    try:
        measurement = measure(
            recipe,
            profiles=_profiles(),
            timed=False,
            trains=request.trains,
            keep_adapters=None if request.keep_adapters is None else Path(request.keep_adapters),
        )
    except PeftRegressError:
        # A bad source or a bad stored adapter: no case can be measured, whatever is installed.
        raise
    except Exception as error:  # noqa: BLE001  (a release may break what reads its modules, too)
        told = str(error).encode("utf-8", "backslashreplace").decode().strip()
        yield Failed(failure=Failure(type=type(error).__name__, message=told or "no message"))
        return
    yield Measured(record=measurement.record)


@functools.cache
def _profiles() -> ProfileCache:
    """Return the profiles that both tasks of a pairing share, as in a run of pytest."""
    from peft_regress.measure.step_profile import ProfileCache

    return ProfileCache()


if __name__ == "__main__":
    main()
