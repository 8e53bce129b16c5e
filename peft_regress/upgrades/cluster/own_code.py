"""The code of a project's own cases, packed for nodes that do not have it.

What lies beside pyproject.toml travels: the table of devices, and the modules and packages from
there that the cases have imported, whole, since cases read files beside their code. What is
installed must be installed on the nodes too.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from peft_regress.catalogue.own_cases import own_fine_tunes
from peft_regress.errors import InputError
from peft_regress.imports import INSTALLED
from peft_regress.own_code import digest_of, own_modules
from peft_regress.settings import Settings
from peft_regress.text import printable
from peft_regress.upgrades.cluster.messages import OwnCode

_LARGEST_BYTES: Final = 64 * 2**20
_ALWAYS_SAME: Final = (1980, 1, 1, 0, 0, 0)


def pack_own_code(settings: Settings) -> OwnCode | None:
    """Return the code of the cases of some settings; None without settings.

    Raises `InputError` for cases that do not import, for code that is too large to send, and for a
    table of devices that may not travel.
    """
    if settings.file is None:
        return None
    own_fine_tunes()  # imports what they need
    files = {"pyproject.toml": settings.file}
    if settings.devices is not None:
        files[_name_of_devices(settings.devices, settings.folder)] = settings.devices
    for top in sorted(_imported_from(settings.folder)):
        path = settings.folder / top
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        files |= {
            str(file.relative_to(settings.folder)): file
            for file in found
            if file.is_file() and _travels(file.relative_to(settings.folder))
        }
    size = sum(file.stat().st_size for file in files.values())
    if size > _LARGEST_BYTES:
        raise InputError(
            f"{settings.folder}: the code of its cases, with the files beside it, is "
            f"{size / 2**20:.0f} MiB, more than the {_LARGEST_BYTES // 2**20} that are sent to "
            "nodes. Install it on them as a package"
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=_ALWAYS_SAME), file.read_bytes())
    return OwnCode(
        paths=list(settings.cases),
        archive=packed.getvalue(),
        search=list(_searched_in(settings.folder)),
        modules={
            name: digest
            for path in settings.cases
            for name, digest in own_modules(path.partition(":")[0]).items()
        },
    )


def _name_of_devices(file: Path, folder: Path) -> str:
    if file.is_relative_to(folder) and _travels(file.relative_to(folder)):
        return str(file.relative_to(folder))
    msg = (
        f"{file}: a table of devices that is hidden or not below {folder} is not sent to nodes; "
        "move it, and change `devices` in [tool.peft_regress]"
    )
    raise InputError(printable(msg))


def _travels(file: Path) -> bool:
    """Return whether a file may be read beside the code: nothing hidden, such as `.env`."""
    return not any(part.startswith(".") or part == "__pycache__" for part in file.parts)


def _searched_in(folder: Path) -> Iterator[str]:
    """Yield the folders below another one that modules are imported from."""
    root = folder.resolve()
    for entry in dict.fromkeys(Path(entry).resolve() for entry in sys.path if entry):
        if entry.is_relative_to(root) and entry != root and INSTALLED.isdisjoint(entry.parts):
            yield str(entry.relative_to(root))


def unpack_own_code(code: OwnCode, folder: Path) -> None:
    """Write what was packed into a folder."""
    with zipfile.ZipFile(io.BytesIO(code.archive)) as archive:
        archive.extractall(folder)


def search_folders(code: OwnCode, folder: Path) -> list[str]:
    """Return where the modules of unpacked code are imported from, first things first."""
    return [str(folder), *(str(folder / name) for name in code.search)]


def other_module(code: OwnCode, folder: Path) -> str | None:
    """Return an own module that is not here as where it was packed; None if there is none."""
    first = search_folders(code, folder)
    return next(
        (name for name, digest in code.modules.items() if digest_of(name, first) != digest), None
    )


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
