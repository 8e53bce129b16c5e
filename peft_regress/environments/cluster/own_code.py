"""The code of a project's own cases, packed for nodes that do not have it.

What lies beside pyproject.toml travels: the modules and packages from there that the cases have
imported, whole, since cases read files beside their code. What is installed must be installed on
the nodes too.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress.catalogue.own_cases import own_fine_tunes
from peft_regress.environments.cluster.messages import OwnCode
from peft_regress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft_regress.settings import Settings

_LARGEST_BYTES: Final = 64 * 2**20
_ALWAYS_SAME: Final = (1980, 1, 1, 0, 0, 0)


def pack_own_code(settings: Settings) -> OwnCode | None:
    """Return the code of the cases of some settings; None without settings.

    Raises `InputError` for cases that do not import, and for code that is too large to send.
    """
    if settings.file is None:
        return None
    own_fine_tunes()  # imports what they need
    files = {"pyproject.toml": settings.file}
    for top in sorted(_imported_from(settings.folder)):
        path = settings.folder / top
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        files |= {
            str(file.relative_to(settings.folder)): file
            for file in found
            if file.is_file() and "__pycache__" not in file.parts
        }
    size = sum(file.stat().st_size for file in files.values())
    if size > _LARGEST_BYTES:
        msg = (
            f"{settings.folder}: the code of its cases, with the files beside it, is "
            f"{size / 2**20:.0f} MiB, more than the {_LARGEST_BYTES // 2**20} that are sent to "
            "nodes. Install it on them as a package"
        )
        raise InputError(msg)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=_ALWAYS_SAME), file.read_bytes())
    return OwnCode(paths=list(settings.cases), archive=packed.getvalue())


def unpack_own_code(code: OwnCode, folder: Path) -> None:
    """Write what was packed into a folder."""
    with zipfile.ZipFile(io.BytesIO(code.archive)) as archive:
        archive.extractall(folder)


def _imported_from(folder: Path) -> Iterator[str]:
    """Yield the entries of a folder that modules of this process were loaded from."""
    root = folder.resolve()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).resolve().is_relative_to(root):
            continue
        inside = Path(file).resolve().relative_to(root).parts
        # An environment inside the project holds installed packages.
        if not {"site-packages", "dist-packages"} & set(inside):
            yield inside[0]
