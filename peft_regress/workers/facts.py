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
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from peft_regress.runs.environment import installed_packages
from peft_regress.settings import Settings
from peft_regress.text import clean, printable

_SHARED: Final = ("sources", "adapters")
"""The folders of a storage that a case reads."""
_LARGEST_BYTES: Final = 64 * 2**20
_ALWAYS_SAME: Final = (1980, 1, 1, 0, 0, 0)


class OwnCode(msgspec.Struct, frozen=True, kw_only=True):
    """The code of a project's own cases."""

    archive: bytes
    """A zip file of what lies beside pyproject.toml, with that."""
    search: list[str]
    """Folders of the archive that modules are imported from besides itself, such as `src`."""
    modules: list[str]
    """The own modules that the cases import."""

    def unpack(self, folder: Path) -> list[str]:
        """Write the code into a folder; return where its modules are imported from, in order."""
        with zipfile.ZipFile(io.BytesIO(self.archive)) as archive:
            archive.extractall(folder)
        return [str(folder), *(str(folder / name) for name in self.search)]


def facts_here(
    baselines: Path,
    code: Iterable[str],
    modules: Iterable[str] = (),
    first: Sequence[str] = (),
) -> dict[str, str]:
    """Return what decides the numbers of this process, by `<kind> <name>`.

    `package`: a version, of Python too; `code`: the digest of a package of this project; `module`:
    that of a module of the user's, which is looked up in the folders `first` and then as ever;
    `file`: that of a source model or stored adapter. Raises `OSError` for a file that cannot be
    read.
    """
    packages = {**installed_packages(), "distributed": version("distributed")}
    shared = [path for folder in _SHARED for path in (baselines / folder).rglob("*")]
    return {
        **{f"package {name}": found for name, found in packages.items()},
        **{f"code {name}": _digest_of_package(name) for name in code},
        **{f"module {name}": digest_of(name, first) or "absent" for name in modules},
        **{
            f"file {path.relative_to(baselines)}": _sha256(path)
            for path in shared
            if path.is_file()
        },
    }


def _digest_of_package(name: str) -> str:
    spec = find_spec(name)
    root = Path(spec.origin).parent if spec is not None and spec.origin else Path("absent")
    digests = (f"{path.relative_to(root)} {_sha256(path)}\n" for path in sorted(root.rglob("*.py")))
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


def difference(
    wanted: Mapping[str, str], found: Mapping[str, str], *, python: str, baselines: str
) -> str | None:
    """Return what a node lacks and what mends it, in one sentence; None if it lacks nothing.

    python: the node's interpreter.
    """
    names = sorted(wanted.keys() | found.keys())
    differing = next((name for name in names if wanted.get(name) != found.get(name)), None)
    if differing is None:
        return None
    kind, _, name = differing.partition(" ")
    here, there = wanted.get(differing), found.get(differing)
    pip = f"`{shlex.quote(python)} -m pip"
    if kind == "module":
        return (
            f"has other code of {name} than the command; install the same there, and start the "
            "worker again"
        )
    if kind == "code":
        return (
            f"has other code of {name}; install this one there, from its checkout: {pip} install .`"
        )
    if kind == "file":
        how = "is missing" if there is None else "is not here" if here is None else "differs"
        return (
            f"{clean(f'{baselines}/{name}')} {how} there; put the storage into a folder that all "
            f"nodes share, or copy it: `rsync -a --delete {shlex.quote(baselines)}/ "
            f"NODE:{shlex.quote(baselines)}/`"
        )
    if name == "python":
        return f"has Python {there}, the command runs on {here}; start it with the same Python"
    remedy = f"install {name}=={here}" if here else f"uninstall {name}"
    return (
        f"has {f'{name} {there}' if there else f'no {name}'}, the command has "
        f"{f'{name} {here}' if here else f'no {name}'}; run {pip} {remedy}` there, and start the "
        "worker again"
    )


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
    root = folder.resolve()
    entries = dict.fromkeys(Path(entry).resolve() for entry in sys.path if entry)
    return OwnCode(
        archive=packed.getvalue(),
        search=[
            str(entry.relative_to(root))
            for entry in entries
            if entry.is_relative_to(root) and entry != root and INSTALLED.isdisjoint(entry.parts)
        ],
        modules=sorted(
            {name for path in settings.cases for name in own_modules(path.partition(":")[0])}
        ),
    )


def _declared(settings: Settings) -> Iterator[Path]:
    """Yield the files that the settings name. Raises `InputError` if one may not travel."""
    folder = settings.folder
    named = [] if settings.devices is None else [settings.devices]
    for glob in settings.data:
        found = [] if Path(glob).is_absolute() else sorted(folder.glob(glob))
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
