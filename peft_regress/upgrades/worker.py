"""Measure cases on request: `python -m peft_regress.upgrades.worker`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from peft_regress.errors import PeftRegressError
from peft_regress.runs.schema import Failure, error_record
from peft_regress.upgrades.messages import (
    Import,
    Imported,
    Measure,
    Measured,
)
from peft_regress.workers.messages import Prepare, Prepared
from peft_regress.workers.serve import recipe_of, serve

if TYPE_CHECKING:
    from peft_regress.measure.recipe import Recipe
    from peft_regress.measure.step_profile import ProfileCache


def handlers() -> Mapping[type[msgspec.Struct], Callable[[Any], msgspec.Struct]]:
    """Return what answers each request; together they keep one case, and the cost profiles."""
    measurer = _Measurer()
    return {Import: import_modules, Prepare: measurer.prepare, Measure: measurer.measure}


def import_modules(request: Import) -> Imported:
    """Import modules, and say where they come from and what machine this is."""
    from peft_regress.runs.environment import describe_machine

    found = {name: import_module(name) for name in request.modules}
    files = {name: str(getattr(module, "__file__", None)) for name, module in found.items()}
    return Imported(machine=describe_machine(), files=files)


class _Measurer:
    """The case that is being measured; `prepare` imports torch."""

    def __init__(self) -> None:
        self._recipe: Recipe
        self._definition: str
        self._profiles: ProfileCache | None = None

    def prepare(self, request: Prepare) -> Prepared:
        from peft_regress.measure import define

        self._recipe = recipe_of(request)
        self._definition = define(self._recipe)
        return Prepared(definition=self._definition)

    def measure(self, request: Measure) -> Measured:
        from peft_regress.measure import ProfileCache, measure

        # Both tasks of a pairing share its profile, as in a run of pytest.
        self._profiles = self._profiles or ProfileCache()
        keep_adapters = None if request.keep_adapters is None else Path(request.keep_adapters)
        try:
            measurement = measure(
                self._recipe,
                profiles=self._profiles,
                timed=False,
                trains=request.trains,
                keep_adapters=keep_adapters,
                known=request.known,
            )
        except PeftRegressError:
            # A bad source or stored adapter: no case can be measured, in any environment.
            raise
        except Exception as error:  # noqa: BLE001  (a release may break the code that measures)
            failure = Failure.of(error)
            record = error_record(self._recipe.case, self._definition, failure)
        else:
            record = measurement.record
        return Measured(record=record, packages=self._recipe.packages())


if __name__ == "__main__":
    serve(handlers())
