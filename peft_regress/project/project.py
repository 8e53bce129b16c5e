"""A project: its settings and its own cases, from the settings or given by a suite. No torch.

A module that holds cases is imported when the cases are first asked for, so that a command or a
pytest run that needs none imports none.
"""

import contextlib
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.imports import import_object
from peft_regress.metrics import METRICS
from peft_regress.project.budgets import OWN_MATRIX, Bound
from peft_regress.project.devices import DeviceClass, load_devices
from peft_regress.project.script import OWN_CASES, OwnCase
from peft_regress.project.settings import DEFAULT_MATRIX, Settings, read_settings

GIVEN: Final = "case_params"
"""Where cases come from that a suite gives itself."""


class Project:
    """The settings of a project, and its own cases."""

    def __init__(self) -> None:
        self._cases: dict[str, OwnCase] = {}
        self._sources: dict[str, str] = {}
        """The import path that a case comes from, or `GIVEN`."""
        self._imported: set[tuple[Path, str]] = set()

    @functools.cached_property
    def settings(self) -> Settings:
        """Those of the working folder, unless others are set. Raises `InputError`."""
        return read_settings(Path.cwd())

    @property
    def matrix(self) -> str:
        """The matrix of the settings; if they name no case and a suite gave some, `own`."""
        stated = self.settings
        is_given = stated.matrix == DEFAULT_MATRIX and not stated.cases and self._cases
        return OWN_MATRIX if is_given else stated.matrix

    @property
    def storage(self) -> Path:
        """The storage of the settings, relative to the working folder if it lies below."""
        return _shown(self.settings.baselines)

    @property
    def suite(self) -> Path:
        """The folder whose tests measure the cases of the settings, shown as the storage is.

        The package of the first case, as `init` writes it, if that has tests; else the project.
        """
        settings = self.settings
        if not settings.cases:
            return Path("benchmarks")
        *package, _ = settings.cases[0].partition(":")[0].split(".")
        folder = settings.folder.joinpath(*package)
        return _shown(folder if any(folder.rglob("test_*.py")) else settings.folder)

    @property
    def folder(self) -> str | None:
        """The folder of pyproject.toml, for another process; None without settings."""
        return None if self.settings.file is None else str(self.settings.folder.resolve())

    @property
    def devices(self) -> tuple[DeviceClass, ...]:
        """The device classes of the package and of the settings' table."""
        return load_devices(self.settings.devices)

    def cases(self) -> Mapping[str, OwnCase]:
        """Import the own cases; return them by id, in the settings' order. Raises `InputError`."""
        folder = self.settings.folder
        for path in self.settings.cases:
            if (folder, path) not in self._imported:
                self.add(import_object(path, folder=folder, is_wanted=_holds_cases), source=path)
                self._imported.add((folder, path))
        return self._cases

    def source_of(self, case: Case) -> str | None:
        """Return the import path of an own case; None for any other and for one that was given."""
        source = self._sources.get(case.id, GIVEN) if self.cases() else GIVEN
        return None if source == GIVEN else source

    def bounds_of(self, case: Case) -> dict[str, Bound]:
        """Return a case's own bounds by metric: those of the settings, and over them its own."""
        own = self.cases().get(case.id)
        known = METRICS.keys() | ((own and own.metrics) or {}).keys()
        found = self.settings.bounds_of(case.id)
        for metric in found.keys() - known:
            raise UnknownNameError("metric of a bound in [tool.peft_regress]", metric, known)
        return {**found, **((own and own.bounds) or {})}

    def add(self, given: OwnCase | Iterable[OwnCase], *, source: str = GIVEN) -> list[OwnCase]:
        """Add own cases, all or none, and return them as a list.

        source: where they come from, for messages. Raises `InputError` for what is no FineTune or
        Script, for an id that another case has, and for a budget of an unknown device.
        """
        cases, sources = dict(self._cases), dict(self._sources)
        fine_tunes = _as_list(given, source)
        for fine_tune in fine_tunes:
            name, earlier = fine_tune.id, sources.get(fine_tune.id, GIVEN)
            if cases.setdefault(name, fine_tune) is not fine_tune:
                raise InputError(
                    f"case {name!r} of {source} has the id of a case of {earlier}. Choose another "
                    "id; if it is the same case, let case_params() take it from pyproject.toml."
                )
            if is_built_in(fine_tune.case):
                raise InputError(
                    f"case {name!r} of {source} has the id of a built-in case. Choose another id."
                )
            device = fine_tune.budget and fine_tune.budget.device
            if device and device not in (known := {one.name for one in self.devices}):
                raise UnknownNameError(f"device in the budget of {name}", device, known)
            sources[name] = source if earlier == GIVEN else earlier
        self._cases, self._sources = cases, sources
        return fine_tunes


_CURRENT: Final = Project()


def current_project() -> Project:
    """Return the project of this process: of the working folder, unless other settings are set.

    It is state of the process, since a suite gives its cases to `case_params` alone. Commands, the
    plugin, workers and the look-up of cases by name ask for it; the others get it or a part of it.
    """
    return _CURRENT


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _as_list(given: Any, source: str) -> list[OwnCase]:
    found = [given] if isinstance(given, OWN_CASES) or not isinstance(given, Iterable) else [*given]
    for item in found:
        if not isinstance(item, OWN_CASES):
            raise InputError(f"{source} has {item!r}, which is not a FineTune or a Script")
    if not found:
        raise InputError(f"{source} holds no FineTune or Script")
    return found


def _holds_cases(value: Any) -> bool:
    items = value if isinstance(value, list | tuple) else [value]
    return bool(items) and all(isinstance(item, OWN_CASES) for item in items)


def is_built_in(case: Case) -> bool:
    """Return whether all three names are registered ones; asks a family only for the last."""
    if case.task in registry.names("task") and case.method in registry.names("method"):
        with contextlib.suppress(UnknownNameError):
            registry.get("architecture", case.architecture)
            return True
    return False
