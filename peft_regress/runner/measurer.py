"""A worker's own side of a case: it looks one up, and then measures it or takes training steps."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from peft_regress.catalogue.own_cases import settings_in_use
from peft_regress.errors import InputError, PeftRegressError
from peft_regress.gate.repeats import KnownCurve
from peft_regress.runs.journal import KeptRecord
from peft_regress.runs.schema import Failure, error_record
from peft_regress.workers.process import WorkerProcess

if TYPE_CHECKING:
    from peft_regress.measure.costs import ProfileCache
    from peft_regress.measure.data import Data
    from peft_regress.measure.recipe import Recipe
    from peft_regress.measure.scripts.script_case import ScriptRecipe


MEASURER: Final = f"{__name__}:Measurer"


class CaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A case to look up, and to measure."""

    case: str
    """Its id."""
    baselines: str
    """The folder with `sources/`, at the same path on every machine."""
    trains: bool = True
    """Without, the record has only the costs of a step."""
    keeps_adapter: bool = False
    known: list[KnownCurve] = []
    """What need not be trained again."""
    # Of the machine that measures.
    folder: str | None = None
    """That of pyproject.toml, if there are settings; it comes first on `sys.path`."""
    own_cases: list[str] = []
    """Import paths `pkg.mod:NAME` of the project's own: no object can travel."""
    scratch: str = ""
    """The folder to keep the adapter in."""


def prepare(worker: WorkerProcess, request: CaseRequest) -> str:
    """Let the `Measurer` look up a case; return its definition or raise `WorkerError`."""
    settings = settings_in_use()
    request = msgspec.structs.replace(
        request,
        folder=None if settings.file is None else str(settings.folder.absolute()),
        own_cases=list(settings.cases),
    )
    return worker.ask(f"{MEASURER}.prepare", request, str)


class Measurer:
    """Measures the case that `prepare` looked up, or times its steps; that imports torch."""

    def __init__(self) -> None:
        self._recipe: Recipe | ScriptRecipe
        self._definition: str
        self._profiles: ProfileCache | None = None
        self._data: Data | None = None
        self._steps: Iterator[tuple[float, float]] = iter(())

    def prepare(self, request: CaseRequest) -> str:
        """Look up a case; return the digest that defines it.

        Raises `UnknownNameError`, and `InputError` for own cases that cannot be imported here.
        """
        from peft_regress.catalogue.matrix import parse_case_id
        from peft_regress.catalogue.own_cases import use_settings
        from peft_regress.measure import define, recipe_of
        from peft_regress.settings import Settings, read_settings

        if request.folder is None:
            use_settings(Settings(folder=Path.cwd(), baselines=Path(request.baselines)))
        else:
            settings = read_settings(Path(request.folder))
            use_settings(dataclasses.replace(settings, cases=tuple(request.own_cases)))
        self._recipe = recipe_of(parse_case_id(request.case), Path(request.baselines))
        self._definition = define(self._recipe)
        self._data = None
        return self._definition

    def measure(self, request: CaseRequest) -> KeptRecord:
        """Measure the case that was looked up; what its code raises is the record's error."""
        from peft_regress.measure import ProfileCache, measure

        # Both tasks of a pairing share its profile, as in a run of pytest.
        self._profiles = self._profiles or ProfileCache()
        try:
            measurement = measure(
                self._recipe,
                profiles=self._profiles,
                timed=False,
                trains=request.trains,
                keep_adapters=Path(request.scratch) if request.keeps_adapter else None,
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
        imported, loaded = self._recipe.packages(), sorted(self._recipe.loaded())
        return KeptRecord(record=record, trains=request.trains, imported=imported, loaded=loaded)

    def restart(self, seed: int) -> None:
        """Begin a seed again with a fresh model: training changes step times, as rates fall."""
        from peft_regress.measure.recipe import Recipe

        if not isinstance(self._recipe, Recipe):
            name = self._recipe.case.id
            raise InputError(f"{name} is a script, whose steps are not timed in pairs")
        self._data = self._data or self._recipe.load_data()
        self._steps = self._recipe.steps(self._data, seed=seed)
        # The model before this one is in reference cycles; do not collect them during a step.
        gc.collect()

    def time_steps(self, count: int) -> list[float]:
        """Take the next steps; return the seconds of each."""
        from peft_regress.measure.training import single_thread

        with single_thread():
            return [seconds for _, seconds in islice(self._steps, count)]
