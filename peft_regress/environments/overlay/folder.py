"""The folder of an overlay: built whole or not at all, and read only where it is whole."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
import venv
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from packaging.utils import canonicalize_name

from peft_regress.environments.overlay import base_environment
from peft_regress.environments.overlay.pip import PipError, Planned, conflicts, install
from peft_regress.errors import InputError
from peft_regress.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SCHEMA", "Overlay", "build_folder", "modules_in", "read_folder", "remove_folder"]

SCHEMA: Final = 3
"""Raised when the form of an overlay changes: one of another form has another name."""

_MARKER: Final = "overlay.json"
# The last in the alphabet: what the overlay's own packages put on the path comes before.
_PATH_FILE: Final = "zzz_running_environment.pth"


class _Marker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in a finished overlay, written last: without it nothing is trusted.

    files: the size in bytes of each file, by its path in the overlay.
    """

    schema_version: int
    packages: dict[str, str]
    planned: list[Planned]
    conflicts: list[str]
    files: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A finished overlay, in use for as long as `opened_overlay` lasts.

    packages: the versions installed in it, by name; empty where the running environment is what
    was asked for. planned: the same with where pip took them from. remarks: what was added, or does
    not fit together, in sentences. was_cached: whether it stood already.
    """

    folder: Path
    python: Path
    packages: dict[str, str]
    planned: tuple[Planned, ...]
    remarks: tuple[str, ...]
    size_bytes: int
    was_cached: bool


def read_folder(folder: Path, *, was_cached: bool) -> Overlay | None:
    """Return a finished overlay, or None: absent, half built, of another form, or damaged."""
    python = folder / "bin" / "python"
    try:
        marker = msgspec.json.decode((folder / _MARKER).read_bytes(), type=_Marker)
    except (OSError, msgspec.DecodeError):
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
    """Make the venv, install what was planned, and write the marker; all of it, or nothing.

    `keep_open` are files that pip holds open while it installs. Raises `PipError`, and `InputError`
    where the folder cannot be written.
    """
    try:
        remove_folder(folder)
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
        # `addsitedir`, so that what is installed there as editable is found, too. It appends: the
        # overlay's own packages stay in front.
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
        # An interrupt leaves nothing half built either.
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            msg = f"{folder}: cannot be built ({error.strerror or error})"
            raise InputError(msg) from error
        raise


def remove_folder(folder: Path) -> None:
    """Remove an overlay, its marker first: what is left by an interrupt is not trusted."""
    (folder / _MARKER).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def modules_in(overlay: Overlay) -> set[str]:
    """Return the names of the modules that an overlay itself has."""
    names = {entry.name.partition(".")[0] for entry in _packages_folder(overlay.folder).iterdir()}
    return {name for name in names if name.isidentifier()}


def _sizes(folder: Path) -> dict[str, int]:
    # What Python compiles comes and goes.
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
    """Return what `pip check` says of the packages that change; of the rest it is no news."""
    names = {one.name for one in planned}
    return [
        f"pip check: {line}"
        for line in conflicts(python, seconds=seconds)
        if names & {canonicalize_name(word) for word in re.findall(r"[\w.-]*\w", line)}
    ]


def _packages_folder(folder: Path) -> Path:
    # Of the scheme `venv`: a system's Python may install its own to another place, as Debian's.
    places = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", "venv", vars=places))


def _versions_in(folder: Path) -> dict[str, str]:
    """Return name and version of what is installed in an overlay itself."""
    found = distributions(path=[str(_packages_folder(folder))])
    return dict(sorted((canonicalize_name(one.name), one.version) for one in found))
