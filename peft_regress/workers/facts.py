"""What a node must have so that its numbers are those of this machine; a project's code travels.

Of a project, the Python modules of the packages travel that its cases import, and the data that
[tool.peft_regress] declares. What is installed must be installed on the nodes too.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec

from peft_regress.catalogue.own_cases import own_fine_tunes
from peft_regress.errors import InputError
from peft_regress.files import read_bytes
from peft_regress.imports import INSTALLED
from peft_regress.own_code import digest_of, own_modules
from peft_regress.runs.environment import changed_packages, installed_packages
from peft_regress.settings import Settings
from peft_regress.text import clean, printable

_SHARED: Final = ("sources", "adapters")
"""The folders of a storage that a case reads."""
_LARGEST_BYTES: Final = 64 * 2**20
_ALWAYS_SAME: Final = (1980, 1, 1, 0, 0, 0)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the numbers of a node."""

    packages: dict[str, str]
    """The versions of Python and of what a number can depend on."""
    dask: str
    """The version of distributed."""
    code: dict[str, str]
    """Digest of the code of this project, by package; empty for one that is not there."""
    files: dict[str, str]
    """SHA-256 of each source model and stored adapter, by its path in the storage."""


class OwnCode(msgspec.Struct, frozen=True, kw_only=True):
    """A project's own cases, with the code that lies beside pyproject.toml."""

    archive: bytes
    """A zip file with pyproject.toml."""
    search: list[str]
    """Folders of the archive that modules are imported from besides itself, such as `src`."""
    modules: dict[str, str]
    """SHA-256 of each own module that the cases import, by name."""

    def unpack(self, folder: Path) -> None:
        """Write the code into a folder."""
        with zipfile.ZipFile(io.BytesIO(self.archive)) as archive:
            archive.extractall(folder)

    def folders(self, folder: Path) -> list[str]:
        """Return where the modules are imported from once unpacked, first things first."""
        return [str(folder), *(str(folder / name) for name in self.search)]

    def other_module(self, folder: Path) -> str | None:
        """Return an own module that is not here as where it was packed; None if there is none."""
        first = self.folders(folder)
        others = (name for name, one in self.modules.items() if digest_of(name, first) != one)
        return next(others, None)


def facts_here(baselines: Path, code: Sequence[str]) -> Facts:
    """Return the facts of this process. Raises `OSError` for a file that cannot be read."""
    return Facts(
        packages=installed_packages(),
        dask=version("distributed"),
        code={package: _digest_of_package(package) for package in code},
        files={
            str(path.relative_to(baselines)): _sha256(path)
            for folder in _SHARED
            for path in sorted((baselines / folder).rglob("*"))
            if path.is_file()
        },
    )


def _digest_of_package(name: str) -> str:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return ""
    root = Path(spec.origin).parent
    digests = (f"{path.relative_to(root)} {_sha256(path)}\n" for path in sorted(root.rglob("*.py")))
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


def difference(wanted: Facts, found: Facts, *, python: str, baselines: str) -> str | None:
    """Return what a node lacks and what mends it, in one sentence; None if it lacks nothing.

    python: the node's interpreter.
    """
    install = f"`{shlex.quote(python)} -m pip"
    for name, (one, other) in changed_packages(wanted.packages, found.packages).items():
        if name == "python":
            return f"has Python {other}, the command runs on {one}; start it with the same Python"
        what = f"{name} {one}" if one else f"no {name}"
        remedy = f"install {name}=={one}" if one else f"uninstall {name}"
        return (
            f"has {f'{name} {other}' if other else f'no {name}'}, the command has {what}; run "
            f"{install} {remedy}` there, and start the worker again"
        )
    if found.dask != wanted.dask:
        return (
            f"has distributed {found.dask}, the command has {wanted.dask}; run "
            f"{install} install distributed=={wanted.dask}` there"
        )
    for name, digest in wanted.code.items():
        if found.code[name] != digest:
            which = "other code" if found.code[name] else "no code"
            return (
                f"has {which} of {name} of the same version; install this one there, from its "
                f"checkout: {install} install .`"
            )
    for name in sorted(wanted.files.keys() | found.files.keys()):
        here, there = wanted.files.get(name), found.files.get(name)
        if here != there:
            how = "is missing" if there is None else "is not here" if here is None else "differs"
            return (
                f"{clean(f'{baselines}/{name}')} {how} there; put the storage into a folder that "
                f"all nodes share, or copy it: `rsync -a --delete {shlex.quote(baselines)}/ "
                f"NODE:{shlex.quote(baselines)}/`"
            )
    return None


def pack_own_code(settings: Settings) -> OwnCode | None:
    """Return the code of the cases of some settings; None without settings.

    Raises `InputError` for cases that do not import, for code that is too large to send, and for
    data that may not travel.
    """
    if settings.file is None:
        return None
    own_fine_tunes()  # imports what they need
    folder, files = settings.folder, {settings.file, *_declared(settings)}
    for top in _imported_from(folder):
        path = folder / top
        files |= {path} if path.is_file() else set(path.rglob("*.py"))
    size = sum(file.stat().st_size for file in files)
    if size > _LARGEST_BYTES:
        raise InputError(
            f"{folder}: the code and the data of its cases are {size / 2**20:.0f} MiB, more than "
            f"the {_LARGEST_BYTES // 2**20} that are sent to nodes. Install them there as a package"
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(files):
            name = str(file.relative_to(folder))
            archive.writestr(zipfile.ZipInfo(name, date_time=_ALWAYS_SAME), file.read_bytes())
    return OwnCode(
        archive=packed.getvalue(),
        search=list(_searched_in(folder)),
        modules={
            name: digest
            for path in settings.cases
            for name, digest in own_modules(path.partition(":")[0]).items()
        },
    )


def _declared(settings: Settings) -> Iterator[Path]:
    """Yield the files that the settings name. Raises `InputError` if one may not travel."""
    folder = settings.folder
    named = [] if settings.devices is None else [settings.devices]
    for glob in settings.data:
        found = sorted(folder.glob(glob)) if not Path(glob).is_absolute() else []
        if not found:
            raise InputError(printable(f"{folder}: data = {glob!r} matches no file there"))
        named += [file for file in found if file.is_file()]
    for file in named:
        inside = file.relative_to(folder).parts if file.is_relative_to(folder) else (".",)
        if any(part.startswith(".") for part in inside):
            msg = (
                f"{file}: what is hidden or not below {folder} is not sent to nodes; move it, and "
                "change [tool.peft_regress]"
            )
            raise InputError(printable(msg))
        yield file


def _searched_in(folder: Path) -> Iterator[str]:
    """Yield the folders below another one that modules are imported from."""
    root = folder.resolve()
    for entry in dict.fromkeys(Path(entry).resolve() for entry in sys.path if entry):
        if entry.is_relative_to(root) and entry != root and INSTALLED.isdisjoint(entry.parts):
            yield str(entry.relative_to(root))


def _imported_from(folder: Path) -> Iterator[str]:
    """Yield the entries of a folder that modules of this process were loaded from."""
    root = folder.resolve()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).resolve().is_relative_to(root):
            continue
        inside = Path(file).resolve().relative_to(root).parts
        # An environment inside the project holds installed packages.
        if INSTALLED.isdisjoint(inside):
            yield inside[0]
