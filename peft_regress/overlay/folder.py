"""Build the folder of an overlay, completely or not at all; read it only if it is complete."""

from __future__ import annotations

import os
import re
import shutil
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
from peft_regress.overlay import base_environment
from peft_regress.overlay.pip import PipError, Planned, conflicts, install

SCHEMA: Final = 3
"""Raised when the layout of an overlay changes: it is part of the folder's name."""

_MARKER: Final = "overlay.json"
# The last file in the alphabet: the `.pth` files of the overlay's own packages come first.
_PATH_FILE: Final = "zzz_running_environment.pth"


class _Marker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a complete overlay, written last: a folder without it is not used."""

    schema_version: int
    packages: dict[str, str]
    """Versions by name."""
    planned: list[Planned]
    conflicts: list[str]
    files: dict[str, int]
    """Size in bytes of each file, by its path in the overlay."""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A complete overlay; nobody removes it while `opened_overlay` lasts."""

    folder: Path
    python: Path
    packages: dict[str, str]
    """Versions installed in it, by name; empty if the running environment has all of them."""
    planned: tuple[Planned, ...]
    """The same packages with their sources."""
    remarks: tuple[str, ...]
    """Sentences about added requirements and about conflicts."""
    size_bytes: int
    was_cached: bool
    """Whether it existed already."""
    requested: tuple[str, ...] = ()
    """The names of the packages that were asked for; the others came with them."""


def read_folder(folder: Path, *, was_cached: bool) -> Overlay | None:
    """Return a complete overlay; None if it is absent, incomplete, damaged or of another schema."""
    python = folder / "bin" / "python"
    try:
        marker = msgspec.json.decode((folder / _MARKER).read_bytes(), type=_Marker)
    except (OSError, ValueError):
        return None
    if marker.schema_version != SCHEMA or not os.access(python, os.X_OK):
        return None
    if _versions_in(folder) != marker.packages or not _is_whole(folder, marker.files):
        return None
    return Overlay(
        folder=folder,
        python=python,
        packages=marker.packages,
        planned=tuple(marker.planned),
        remarks=tuple(marker.conflicts),
        size_bytes=sum(marker.files.values()),
        was_cached=was_cached,
    )


def build_folder(
    folder: Path, planned: Sequence[Planned], *, seconds: float, keep_open: Sequence[int] = ()
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
        lines = [
            f"import site; site.addsitedir({path!r})" for path in base_environment.site_folders()
        ]
        (_packages_folder(folder) / _PATH_FILE).write_text("\n".join([*lines, ""]))
        python = folder / "bin" / "python"
        if planned:
            install(python, planned, seconds=seconds, keep_open=keep_open)
        packages = _versions_in(folder)
        missing = {one.name for one in planned} - packages.keys()
        if missing:
            what = " ".join(sorted(missing))
            raise PipError(what, f"pip installed nothing of that name into {folder}")  # noqa: TRY301  (cleaned up below)
        marker = _Marker(
            schema_version=SCHEMA,
            packages=packages,
            planned=list(planned),
            conflicts=_new_conflicts(python, planned, seconds=seconds) if planned else [],
            files=_sizes(folder),
        )
        write_atomic(folder / _MARKER, msgspec.json.encode(marker))
    except BaseException as error:
        # An interrupt leaves no incomplete folder either.
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(f"{folder}: cannot be built ({error.strerror or error})") from error
        raise


def remove_folder(folder: Path) -> None:
    """Remove an overlay, its marker first: what an interrupted removal leaves is not used."""
    (folder / _MARKER).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def modules_in(overlay: Overlay) -> set[str]:
    """Return the names of the modules in an overlay, without those of the running environment."""
    names = {entry.name.partition(".")[0] for entry in _packages_folder(overlay.folder).iterdir()}
    return {name for name in names if name.isidentifier()}


def _sizes(folder: Path) -> dict[str, int]:
    # Python adds and removes compiled files.
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.is_symlink() and file.suffix != ".pyc"
    }


def _is_whole(folder: Path, sizes: dict[str, int]) -> bool:
    try:
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except OSError:
        return False


def _new_conflicts(python: Path, planned: Sequence[Planned], *, seconds: float) -> list[str]:
    """Return the lines of `pip check` about the planned packages: other conflicts are not new."""
    names = {one.name for one in planned}
    return [
        f"pip check: {line}"
        for line in conflicts(python, seconds=seconds)
        if names & {canonicalize_name(word) for word in re.findall(r"[\w.-]*\w", line)}
    ]


def _packages_folder(folder: Path) -> Path:
    # The scheme `venv`: the default one of a system's Python may differ, as Debian's does.
    folders = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", "venv", vars=folders))


def _versions_in(folder: Path) -> dict[str, str]:
    """Return name and version of each package in an overlay itself."""
    found = distributions(path=[str(_packages_folder(folder))])
    return dict(sorted((canonicalize_name(one.name), one.version) for one in found))
