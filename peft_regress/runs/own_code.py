"""What a case of one's own states beside its definition: own modules, bounds, budget. No torch.

Imports are read from the source, also those inside functions, so that every process finds the same.
"""

import ast
import contextlib
import functools
import hashlib
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Final

from msgspec import UNSET, structs
from packaging.utils import canonicalize_name

from peft_regress.cases import Case
from peft_regress.imports import INSTALLED
from peft_regress.project.project import Project
from peft_regress.project.script import Script
from peft_regress.runs.environment import files_from_here, installed_packages
from peft_regress.runs.schema import Record, canonical_digest

_THIS_PROJECT: Final = "peft_regress"


def code_of(case: Case, project: Project) -> str | None:
    """Return a digest of the user's own modules that an own case imports; None for another case."""
    source, folder = project.source_of(case), project.settings.folder
    if source is None:
        return None
    own = project.cases()[case.id]
    if isinstance(own, Script):
        return canonical_digest(_script_modules(folder / own.script))
    return _digest_of(folder, source.partition(":")[0])


def was_edited(record: Record, project: Project) -> bool:
    """Return whether the code of a case is not that which its record was measured with."""
    return record.own_code is not UNSET and record.own_code != code_of(record.case, project)


def _script_modules(path: Path) -> dict[str, str]:
    """Return the SHA-256 of a script and of each own module that it imports."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    found = {"__main__": hashlib.sha256(content).hexdigest()}
    for name in _imported_by(ModuleSpec("__main__", None, origin=str(path)), content):
        found |= own_modules(name, first=[str(path.parent)])
    return found


def as_stated(record: Record, project: Project) -> Record:
    """Return a record with what its case states beside the definition: code, bounds, budget."""
    case, own = record.case, project.cases().get(record.case.id)
    code, bounds = code_of(case, project), project.bounds_of(case)
    stated = {"own_code": code, "bounds": bounds, "budget": own and own.budget}
    return structs.replace(record, **{name: value for name, value in stated.items() if value})


@functools.cache
def _digest_of(folder: Path, module: str) -> str:  # noqa: ARG001  (decides what the name means)
    return canonical_digest(own_modules(module))


def own_modules(root: str, first: Sequence[str] = ()) -> dict[str, str]:
    """Return the SHA-256 of each own module that a module imports, itself included, by name.

    Own is what lies in no `site-packages`, or was installed from a folder or a file of this
    machine; never this project and what it depends on.
    """
    foreign = {*sys.stdlib_module_names, _THIS_PROJECT}
    with_version = installed_packages()
    from_here = files_from_here(without=with_version)
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        if name in seen or top in foreign or canonicalize_name(top) in with_version:
            continue
        seen.add(name)
        spec = _spec_of(name, first)
        if spec is None:
            continue  # an attribute, or an optional package
        waiting += [name.rpartition(".")[0]] if "." in name else []
        if spec.origin is None or not spec.has_location:
            continue  # a folder that packages may share
        if INSTALLED.isdisjoint(Path(spec.origin).parts) or spec.origin in from_here:
            content = Path(spec.origin).read_bytes()
            found[name] = hashlib.sha256(content).hexdigest()
            waiting += _imported_by(spec, content)
    return dict(sorted(found.items()))


def digest_of(name: str, first: Sequence[str]) -> str | None:
    """Return the SHA-256 of a module in these folders, or else here; None if there is none."""
    spec = _spec_of(name, first)
    if spec is None or spec.origin is None:
        return None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def _spec_of(name: str, first: Sequence[str] = ()) -> ModuleSpec | None:
    """Find a module without importing it or its packages, in some folders first."""
    parent = name.rpartition(".")[0]
    if not parent:
        try:
            return PathFinder.find_spec(name, first) or find_spec(name)
        except ValueError:  # loaded, without saying from where
            return None
    package = _spec_of(parent, first)
    if package is None or package.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, package.submodule_search_locations)


def _imported_by(spec: ModuleSpec, content: bytes) -> Iterator[str]:
    """Yield the names that a module imports, which may be modules."""
    if Path(spec.origin or "").suffix != ".py":
        return
    # Code that Python never runs may be wrong.
    with contextlib.suppress(SyntaxError, ImportError):
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = resolve_name("." * node.level + (node.module or ""), spec.parent)
                yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
