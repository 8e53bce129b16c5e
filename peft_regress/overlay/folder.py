"""Build the folder of an overlay; read it only if it is complete."""

import os
import shutil
import site
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

import msgspec
from packaging.utils import canonicalize_name

from peft_regress.errors import InputError
from peft_regress.files import write_atomic
from peft_regress.overlay.pip import PipError, Planned, install
from peft_regress.project.settings import Pip

SCHEMA: Final = 4
"""Raised when the layout of an overlay changes: it is part of the folder's name."""

_MARKER: Final = "overlay.json"
# The last file in the alphabet: the `.pth` files of the overlay's own packages come first.
_PATH_FILE: Final = "zzz_running_environment.pth"


class _Marker(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a complete overlay, written last: a folder without it is not used."""

    packages: dict[str, str]
    """Versions by name."""
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A complete overlay; nobody removes it while `opened_overlay` lasts."""

    folder: Path
    python: Path
    packages: dict[str, str]
    """Versions installed in it, by name; empty if the running environment has all of them."""
    planned: tuple[Planned, ...]
    """The same packages with their sources."""
    size_bytes: int
    remarks: tuple[str, ...] = ()
    """Sentences about added requirements and yanked releases."""
    was_cached: bool = True
    """Whether it existed already."""
    requested: tuple[str, ...] = ()
    """The names of the packages that were asked for; the others came with them."""


def read_folder(folder: Path, planned: Sequence[Planned]) -> Overlay | None:
    """Return the overlay of what was planned; None if it is absent or incomplete."""
    try:
        marker = msgspec.json.decode((folder / _MARKER).read_bytes(), type=_Marker)
    except FileNotFoundError:
        return None
    return Overlay(
        folder=folder,
        python=folder / "bin" / "python",
        packages=marker.packages,
        planned=tuple(planned),
        size_bytes=marker.size_bytes,
    )


def build_folder(
    folder: Path, planned: Sequence[Planned], pip: Pip, *, keep_open: Sequence[int]
) -> None:
    """Make the venv, install what was planned, and write the marker; or leave no folder.

    `keep_open` are files that pip holds open while it installs. Raises `PipError` if pip fails,
    `InputError` if the folder cannot be written.
    """
    try:
        remove_folder(folder)
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
        # `addsitedir` also finds editable installs there. It appends to the path: the overlay's own
        # packages stay in front.
        lines = [f"import site; site.addsitedir({path!r})\n" for path in site_folders()]
        (_packages_folder(folder) / _PATH_FILE).write_text("".join(lines))
        if planned:
            install(folder / "bin" / "python", planned, pip, keep_open=keep_open)
        found = distributions(path=[str(_packages_folder(folder))])
        versions = ((canonicalize_name(one.name), one.version) for one in found)
        packages: dict[str, str] = dict(sorted(versions))
        missing = {one.name for one in planned} - packages.keys()
        if missing:
            what = " ".join(sorted(missing))
            raise PipError(what, f"pip installed nothing of that name into {folder}")  # noqa: TRY301  (cleaned up below)
        size = sum(file.stat().st_size for file in folder.rglob("*") if not file.is_symlink())
        marker = _Marker(packages=packages, size_bytes=size)
        write_atomic(folder / _MARKER, msgspec.json.encode(marker))
    except BaseException as error:
        # An interrupt leaves no incomplete folder either.
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(f"{folder}: cannot be built ({error.strerror or error})") from error
        raise


def site_folders() -> list[str]:
    """Return the folders in which the running interpreter finds packages, in order."""
    own = [*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if site.ENABLE_USER_SITE:
        own.append(site.getusersitepackages())
    known = {os.path.realpath(folder) for folder in own}
    named = {"site-packages", "dist-packages"}
    paths = {folder: os.path.realpath(folder) for folder in sys.path}
    found = (real for one, real in paths.items() if real in known or Path(one).name in named)
    return list(dict.fromkeys(found))


def remove_folder(folder: Path) -> None:
    """Remove an overlay, its marker first: what an interrupted removal leaves is not used."""
    (folder / _MARKER).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _packages_folder(folder: Path) -> Path:
    # The scheme `venv`: the default one of a system's Python may differ, as Debian's does.
    folders = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", "venv", vars=folders))
