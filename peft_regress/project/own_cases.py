"""The cases of a project itself, from its settings or given by a suite. No torch at import.

A module that holds cases is imported when the cases are first asked for, so that a command or a
pytest run that needs none imports none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

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


class _Own(NamedTuple):
    fine_tune: OwnCase
    source: str
    """The import path that it comes from, or `GIVEN`."""


@dataclass
class _Registry:
    settings: Settings | None = None
    """Those of the process; None for those of the working folder."""
    of_folder: dict[Path, Settings] = field(default_factory=dict)
    imported: set[tuple[Path, str]] = field(default_factory=set)
    cases: dict[str, _Own] = field(default_factory=dict)


_registry = _Registry()


def use_settings(settings: Settings) -> None:
    """Take these settings in this process, in place of those of the working folder."""
    _registry.settings = settings


def settings_in_use() -> Settings:
    """Return the settings of this process, or else of the working folder."""
    if _registry.settings is not None:
        return _registry.settings
    folder = Path.cwd()
    if folder not in _registry.of_folder:
        _registry.of_folder[folder] = read_settings(folder)
    return _registry.of_folder[folder]


def usual_matrix() -> str:
    """Return the matrix of the settings; if they name no case and a suite gave some, `own`."""
    settings = settings_in_use()
    names_none = settings.matrix == DEFAULT_MATRIX and not settings.cases
    return OWN_MATRIX if names_none and _registry.cases else settings.matrix


def usual_storage() -> Path:
    """Return the storage of the settings, relative to the working folder if it lies below."""
    return _shown(settings_in_use().baselines)


def usual_suite() -> Path:
    """Return the folder whose tests measure the cases of the settings, shown as the storage is.

    It is the package of the first case, as `init` writes it, if that has tests; else the project.
    """
    settings = settings_in_use()
    if not settings.cases:
        return Path("benchmarks")
    *package, _ = settings.cases[0].partition(":")[0].split(".")
    folder = settings.folder.joinpath(*package)
    return _shown(folder if any(folder.rglob("test_*.py")) else settings.folder)


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def device_classes() -> tuple[DeviceClass, ...]:
    """Return the device classes of the package and of the settings' table."""
    return load_devices(settings_in_use().devices)


def own_fine_tunes() -> Mapping[str, OwnCase]:
    """Return the project's own cases by id, in the order of the settings."""
    settings = settings_in_use()
    for path in settings.cases:
        if (settings.folder, path) not in _registry.imported:
            found = import_object(path, folder=settings.folder, is_wanted=_holds_cases)
            add_own_cases(found, source=path)
            _registry.imported.add((settings.folder, path))
    return {name: own.fine_tune for name, own in _registry.cases.items()}


def own_fine_tune(case: Case) -> OwnCase | None:
    """Return the fine-tuning of an own case; None for any other. Raises `InputError`."""
    return own_fine_tunes().get(case.id)


def source_of(case: Case) -> str | None:
    """Return the import path of an own case; None for any other and for one that a suite gave."""
    own_fine_tunes()
    own = _registry.cases.get(case.id)
    return None if own is None or own.source == GIVEN else own.source


def bounds_of(fine_tune: OwnCase) -> dict[str, Bound]:
    """Return a case's own bounds by metric: those of the settings, and over them its own."""
    known = METRICS.keys() | (fine_tune.metrics or {}).keys()
    found = settings_in_use().bounds_of(fine_tune.id)
    for metric in found.keys() - known:
        raise UnknownNameError("metric of a bound in [tool.peft_regress]", metric, known)
    return {**found, **(fine_tune.bounds or {})}


def add_own_cases(given: OwnCase | Iterable[OwnCase], *, source: str = GIVEN) -> list[OwnCase]:
    """Register cases, all or none, and return them as a list.

    source: where they come from, for messages. Raises `InputError` for what is no FineTune or
    Script, for an id that another case has, and for a budget of an unknown device.
    """
    fine_tunes = _as_list(given, source)
    added: dict[str, _Own] = {}
    for fine_tune in fine_tunes:
        name = fine_tune.id
        taken = added.get(name) or _registry.cases.get(name)
        if taken is not None and taken.fine_tune is not fine_tune:
            raise InputError(
                f"case {name!r} of {source} has the id of a case of {taken.source}. Choose another "
                "id; if it is the same case, let case_params() take it from pyproject.toml."
            )
        if _is_built_in(fine_tune.case):
            raise InputError(
                f"case {name!r} of {source} has the id of a built-in case. Choose another id."
            )
        device = fine_tune.budget and fine_tune.budget.device
        if device and device not in (known := {one.name for one in device_classes()}):
            raise UnknownNameError(f"device in the budget of {name}", device, known)
        if taken is None or taken.source == GIVEN:
            taken = _Own(fine_tune, source)
        added[name] = taken
    _registry.cases |= added
    return fine_tunes


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


def _is_built_in(case: Case) -> bool:
    """Return whether all three names are registered ones; asks a family only for the last."""
    if case.task not in registry.names("task") or case.method not in registry.names("method"):
        return False
    try:
        registry.get("architecture", case.architecture)
    except UnknownNameError:
        return False
    return True
