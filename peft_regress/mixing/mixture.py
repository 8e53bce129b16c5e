"""Import a package with some units of another release, and note which of its functions run.

An import hook makes the modules in memory; no file of an environment is written.
"""

import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Final, TypeAlias

import msgspec

from peft_regress.files import encoded
from peft_regress.mixing.units import Module, mixed

VARIABLE: Final = "PEFT_REGRESS_MIXTURE"
"""The variable that hands a mixture to a script's process: its file."""


class Unit(msgspec.Struct, frozen=True, order=True):
    """A function, default, field or constant of a package."""

    file: str
    """Below the folder that holds the package: `peft/tuners/lora/layer.py`."""
    name: str
    """As `changed_units` names it."""


class Mixture(msgspec.Struct, frozen=True, kw_only=True):
    """A package as one environment has it, with units of another one's."""

    modules: list[str]
    """The top-level modules of the package."""
    folder: str
    """The folder that holds them in the environment that runs."""
    donor: str
    """The folder that holds the other release."""
    units: list[Unit] = []
    """What is the other release's."""
    traced: str = ""
    """The file that gets what ran, `Calls`; '' for none."""


Calls: TypeAlias = dict[str, dict[str, int]]
"""How often each function was called, by file; a file that was only imported has none."""


@contextlib.contextmanager
def mixture_in_use(mixture: Mixture) -> Iterator[None]:
    """Import the package mixed from now on, here and in the scripts that this process starts."""
    finder, calls = _Finder(mixture), Counter[CodeType]()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            calls[frame.f_code] += 1

    sys.meta_path.insert(0, finder)
    if mixture.traced:
        threading.setprofile(profile)
        sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        sys.meta_path.remove(finder)
        # A script's own process has written it.
        if mixture.traced and not Path(mixture.traced).exists():
            Path(mixture.traced).write_bytes(encoded(_ran(mixture, calls)))


@contextlib.contextmanager
def mixture_of_environment() -> Iterator[None]:
    """Use the mixture that a parent process hands down, if there is one."""
    path = os.environ.get(VARIABLE)
    if not path:
        yield
        return
    mixture = msgspec.json.decode(Path(path).read_bytes(), type=Mixture)
    with mixture_in_use(mixture):
        yield


def _ran(mixture: Mixture, calls: Counter[CodeType]) -> Calls:
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    found: Calls = {
        name: {} for file in files if file and (name := _below(file, mixture.folder, mixture))
    }
    for code, count in calls.items():
        name = _below(code.co_filename, mixture.folder, mixture)
        if name:
            function = code.co_qualname.partition(".<locals>")[0]
            of_file = found.setdefault(name, {})
            of_file[function] = of_file.get(function, 0) + count
    return found


def _below(file: str, folder: str, mixture: Mixture) -> str | None:
    """Return the name of a file below the folder of the package; None if it is no part of it."""
    name = file.removeprefix(f"{folder}/")
    top = name.partition("/")[0].removesuffix(".py")
    return name if name != file and top in mixture.modules else None


class _Finder(MetaPathFinder):
    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture
        self._units: dict[str, list[str]] = {}
        for one in mixture.units:
            self._units.setdefault(one.file, []).append(one.name)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of the package; of the other release if this one lacks it."""
        mixture = self._mixture
        if fullname.partition(".")[0] not in mixture.modules:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None:
            return self._from_donor(fullname)
        name = _below(spec.origin or "", mixture.folder, mixture)
        if name in self._units and spec.origin is not None:
            donor = str(Path(mixture.donor, name))
            spec.loader = _Loader(fullname, spec.origin, donor, self._units[name])
        return spec

    def _from_donor(self, fullname: str) -> ModuleSpec | None:
        path = Path(self._mixture.donor, *fullname.split("."))
        package, module = path / "__init__.py", path.with_suffix(".py")
        if package.is_file():
            below = [str(path)]
            return spec_from_file_location(fullname, package, submodule_search_locations=below)
        return spec_from_file_location(fullname, module) if module.is_file() else None


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, donor: str, names: Sequence[str]) -> None:
        super().__init__(fullname, path)
        self._donor, self._names = donor, names

    def get_code(self, fullname: str) -> CodeType | None:  # noqa: ARG002  (of this one module)
        """Return the code of the mixed module."""
        paths = (self.path, self._donor)
        target, donor = (Module(Path(path).read_text(encoding="utf-8")) for path in paths)
        tree = mixed(target, donor, self._names)
        return compile(tree, self.path, "exec", dont_inherit=True)
