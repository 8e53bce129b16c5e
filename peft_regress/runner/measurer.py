"""What measures in a process, of pytest or of a worker; a worker's requests and answers."""

import gc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from peft_regress.cases import Case, DataFile
from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.errors import InputError, PeftRegressError
from peft_regress.gate.repeats import KnownCurve
from peft_regress.interrupts import held_signals
from peft_regress.project.project import Project, current_project
from peft_regress.project.settings import Settings, read_settings
from peft_regress.runs.journal import Header, KeptRecord
from peft_regress.runs.own_code import as_stated
from peft_regress.runs.schema import Failure, Record, Referee, error_record

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
    measures: bool = True
    """Without, it is only looked up."""
    commit: str | UnsetType = UNSET
    """Of the run, see `Header`."""
    folder: str | None = None
    """That of pyproject.toml, at the same path on every machine; None without settings."""
    scratch: str = ""
    """The folder to keep the adapter in, of the machine that measures."""
    start: str = ""
    """The file of `begin_alike`, for `Measurer.refereed`."""


class CaseAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A case as its environment knows it, and what was measured of it."""

    where: str
    """The interpreter, or the machine as people find it."""
    header: Header
    definition: str
    kept: KeptRecord | None = None
    """The record; None if the case was only looked up."""
    adapter: dict[DataFile, bytes] = {}
    """The files of the kept adapter, by name."""


class Measurer:
    """Measures the case that it looked up, or times its steps; that imports torch."""

    def __init__(self) -> None:
        self._project: Project
        self._recipe: Recipe | ScriptRecipe
        self._definition: str
        self._profiles: ProfileCache | None = None
        self._data: Data | None = None
        self._steps: Iterator[tuple[float, float]] = iter(())

    def prepare(self, request: CaseRequest) -> str:
        """Look up a case of a project; return the digest that defines it.

        Raises `UnknownNameError`, and `InputError` for own cases that cannot be imported here.
        """
        project, baselines = current_project(), Path(request.baselines)
        if request.folder is None:
            project.settings = Settings(folder=Path.cwd(), baselines=baselines)
        else:
            project.settings = read_settings(Path(request.folder))
        return self.define(parse_case_id(request.case), baselines, project)

    def define(self, case: Case, baselines: Path, project: Project) -> str:
        """Look up a case of a project; return the digest that defines it."""
        with held_signals():
            from peft_regress.measure import define, recipe_of

        self._project, self._recipe = project, recipe_of(case, baselines, project)
        self._definition = define(self._recipe)
        self._data = None
        return self._definition

    def measure(self, request: CaseRequest) -> KeptRecord:
        """Measure the case that was looked up; what its code raises is the record's error."""
        try:
            folder = Path(request.scratch) if request.keeps_adapter else None
            kept = self.measured(
                timed=False,
                trains=request.trains,
                keep_adapters=folder,
                keep_referee=True,
                known=request.known,
            )
        except PeftRegressError:
            # A bad source or stored adapter: no case can be measured, in any environment.
            raise
        except Exception as error:  # noqa: BLE001  (a release may break the code that measures)
            kept = self._kept(error_record(self._recipe.case, self._definition, Failure.of(error)))
        loaded = sorted(self._recipe.loaded())
        return msgspec.structs.replace(kept, trains=request.trains, loaded=loaded)

    def tried(self, request: CaseRequest, *, in_full: bool) -> Record:
        """Look up a case and measure it once: its first steps, or all `in_full`; no referee.

        Raises what `measured` raises.
        """
        from peft_regress.measure import briefly

        self.prepare(request)
        self._recipe = briefly(self._recipe, in_full=in_full)
        return self.measured(timed=False, trains=request.trains).record

    def refereed(self, request: CaseRequest) -> Referee:
        """Train a case in float64 from a start; where there is none yet, keep its own.

        Raises `InputError` where it has no referee.
        """
        from peft_regress.measure.recipe import Recipe
        from peft_regress.measure.referee import refereed
        from peft_regress.measure.training import single_thread, undisturbed

        self.prepare(request)
        recipe, start = self._recipe, Path(request.start)
        known = next((one.referee for one in request.known), None)
        with single_thread(), undisturbed():
            if isinstance(recipe, Recipe):
                base = recipe.base_model(recipe.seeds[0])
                found = refereed(recipe, base, known=known, start=start)
            else:
                found = recipe.refereed(known, start=start)
        if isinstance(found, str):
            raise InputError(found)
        return found

    def measured(self, **options: Any) -> KeptRecord:
        """Measure the case that was looked up; options and errors are those of `measure`."""
        from peft_regress.measure import ProfileCache, measure

        # Both tasks of a pairing share its profile.
        self._profiles = self._profiles or ProfileCache()
        record = measure(self._recipe, profiles=self._profiles, **options).record
        return self._kept(as_stated(record, self._project))

    def _kept(self, record: Record) -> KeptRecord:
        return KeptRecord(record=record, imported=self._recipe.packages())

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
