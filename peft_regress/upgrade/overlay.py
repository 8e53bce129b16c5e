"""Environments in seconds and megabytes: a venv that holds what differs, over the running one.

The overlay's own packages come first on its path, the running environment's after them, so that
torch is shared unless it changes. Nothing is ever installed outside the overlay.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import site
import sys
import sysconfig
import tempfile
import venv
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from peft_regress.environment import installed_packages
from peft_regress.errors import InputError
from peft_regress.files import write_atomic
from peft_regress.upgrade.locks import held
from peft_regress.upgrade.pip_calls import PIP_SECONDS, PipError, Planned, conflicts, install, plan
from peft_regress.upgrade.requirements import constraints_for, read_requirements

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.upgrade.requirements import Wanted

__all__ = [
    "GATED_PACKAGES",
    "Overlay",
    "ReplacesTorchError",
    "cache_folder",
    "clean_overlays",
    "opened_overlay",
    "opened_part",
]

GATED_PACKAGES: Final = ("galore-torch", "peft", "torch", "torchvision")
"""What pip must find a common solution for, whichever of them is asked for."""

_VARIABLE: Final = "PEFT_REGRESS_CACHE"
_MARKER: Final = "overlay.json"
_SCHEMA: Final = 2
"""Raised when the form of an overlay changes: one of another form has another name."""


class ReplacesTorchError(InputError):
    """A requirement that would replace torch by another build, which nobody has agreed to."""

    def __init__(self, requirements: str, old: str, new: str) -> None:
        self.old = old
        self.new = new
        super().__init__(
            f"{requirements}: would replace torch {old} by {new}, a download of up to gigabytes. "
            "Add --yes if that is wanted"
        )


class _Marker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in a finished overlay, written last: without it nothing is trusted."""

    schema_version: int
    packages: dict[str, str]
    planned: list[Planned]
    remarks: list[str]
    size_bytes: int


class _Resolved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which overlay requirements that always mean the same were resolved to."""

    schema_version: int
    key: str


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


def cache_folder() -> Path:
    """Return where overlays are kept: `PEFT_REGRESS_CACHE`, or the user's cache folder."""
    chosen = os.environ.get(_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "peft-regress"
    base = os.environ.get("XDG_CACHE_HOME")
    # A relative one is to be ignored, by the XDG specification.
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "peft-regress"


@contextmanager
def opened_overlay(
    requirements: Sequence[str],
    *,
    replace_torch: bool = False,
    pre: bool = False,
    seconds: float = PIP_SECONDS,
) -> Iterator[Overlay]:
    """Build the overlay of some requirements, or take the one that stands, and keep it in use.

    `seconds` is what one call of pip may take. Raises `InputError` for what is no requirement,
    `PipError` where pip finds no solution or cannot install it, `ReplacesTorchError` where torch
    would change and `replace_torch` does not say that it may.
    """
    root = _made_folder()
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as scratch:
        wanted = read_requirements(requirements, scratch=Path(scratch), seconds=seconds, pre=pre)
        known = _known_key(root, wanted)
        if known is not None:
            with _in_use(root, known) as overlay:
                if overlay is not None:
                    yield overlay
                    return
        planned, remarks = _resolved(wanted, pre=pre, seconds=seconds)
        _check_torch(wanted, planned, replace_torch=replace_torch)
        key = _key(planned, wanted)
        with _built(root, key, planned, remarks, seconds=seconds) as overlay:
            _remember(root, wanted, key)
            yield overlay


@contextmanager
def opened_part(planned: Sequence[Planned], *, seconds: float = PIP_SECONDS) -> Iterator[Overlay]:
    """Build the overlay of some of the packages of another one, whatever else they would need."""
    key = _key(planned, ())
    with _built(_made_folder(), key, planned, (), seconds=seconds) as overlay:
        yield overlay


def clean_overlays() -> tuple[list[str], list[str]]:
    """Remove every overlay that nobody uses; return those removed, and those in use."""
    root = cache_folder()
    removed: list[str] = []
    used: list[str] = []
    if not root.is_dir():
        return removed, used
    for lock_file in sorted(root.glob("overlays/*.lock")):
        folder = lock_file.with_suffix("")
        with held(lock_file) as lock:
            if not lock.own_now():
                used.append(folder.name)
            elif folder.exists():
                shutil.rmtree(folder)
                removed.append(folder.name)
    shutil.rmtree(root / "requests", ignore_errors=True)
    return removed, used


def _made_folder() -> Path:
    root = cache_folder()
    try:
        for name in ("overlays", "requests"):
            (root / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = (
            f"{root}: overlays cannot be kept there ({error.strerror or error}); "
            f"set {_VARIABLE} to another folder"
        )
        raise InputError(msg) from error
    return root


def _resolved(
    wanted: Sequence[Wanted], *, pre: bool, seconds: float
) -> tuple[tuple[Planned, ...], tuple[str, ...]]:
    """Return what pip would install, and what was added to the requirements, in sentences."""
    texts = [requirement.text for requirement in wanted]
    named = {requirement.name for requirement in wanted}
    # Else pip would break one of them for another: it does not look at what is installed already.
    texts += [name for name in GATED_PACKAGES if name not in named]
    planned = plan(texts, seconds=seconds, pre=pre)
    added = constraints_for(planned, wanted, installed_packages())
    if added:
        planned = plan([*texts, *(one.requirement for one in added)], seconds=seconds, pre=pre)
    remarks = [f"{one.requirement} was added: {one.reason}" for one in added]
    remarks += [f"{one.name} {one.version} was yanked" for one in planned if one.is_yanked]
    return planned, tuple(remarks)


def _check_torch(
    wanted: Sequence[Wanted], planned: Sequence[Planned], *, replace_torch: bool
) -> None:
    for one in planned:
        if one.name == "torch" and not replace_torch:
            shown = " ".join(requirement.shown for requirement in wanted)
            old = installed_packages().get("torch", "absent")
            raise ReplacesTorchError(shown, old, one.version)


def _site_folders() -> list[str]:
    """Return where the running interpreter finds its packages, in its order."""
    own = [*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if site.ENABLE_USER_SITE:
        own.append(site.getusersitepackages())
    known = {os.path.realpath(folder) for folder in own}
    named = {"site-packages", "dist-packages"}
    found = [
        folder
        for folder in sys.path
        if os.path.realpath(folder) in known or Path(folder).name in named
    ]
    return list(dict.fromkeys(os.path.realpath(folder) for folder in found))


def _parent() -> list[str]:
    return [sys.version, sys.prefix, *_site_folders()]


def _installed_names() -> list[str]:
    """Return name and version of every package that can be seen from here, cheaply."""
    return sorted(
        entry.name
        for folder in _site_folders()
        if os.path.isdir(folder)  # noqa: PTH112
        for entry in os.scandir(folder)
        if entry.name.endswith((".dist-info", ".egg-info"))
    )


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode([_SCHEMA, value])).hexdigest()[:20]


def _key(planned: Sequence[Planned], wanted: Sequence[Wanted]) -> str:
    """Return the name of an overlay: by what is in it, and what it lies over."""
    identities = {requirement.name: requirement.identity for requirement in wanted}
    return _digest(
        [
            _parent(),
            [
                (one.name, one.version, one.digest or "")
                if " @ " not in one.source
                else (one.name, one.version, identities.get(one.name) or one.source)
                for one in planned
            ],
        ]
    )


def _request_file(root: Path, wanted: Sequence[Wanted]) -> Path | None:
    identities = sorted(requirement.identity or "" for requirement in wanted)
    if not all(identities):
        return None
    # What pip plans depends on what is installed.
    return root / "requests" / f"{_digest([_parent(), _installed_names(), identities])}.json"


def _known_key(root: Path, wanted: Sequence[Wanted]) -> str | None:
    file = _request_file(root, wanted)
    if file is None or not file.is_file():
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Resolved).key
    except (OSError, msgspec.DecodeError):
        return None


def _remember(root: Path, wanted: Sequence[Wanted], key: str) -> None:
    file = _request_file(root, wanted)
    if file is not None:
        write_atomic(file, msgspec.json.encode(_Resolved(schema_version=_SCHEMA, key=key)))


@contextmanager
def _in_use(root: Path, key: str) -> Iterator[Overlay | None]:
    """Hold an overlay that stands; None where it does not, or is not whole."""
    folder = root / "overlays" / key
    with held(folder.with_name(f"{key}.lock")) as lock:
        lock.share()
        yield _read(folder, was_cached=True)


@contextmanager
def _built(
    root: Path,
    key: str,
    planned: Sequence[Planned],
    remarks: Sequence[str],
    *,
    seconds: float,
) -> Iterator[Overlay]:
    """Build an overlay unless it stands, alone, then hold it together with others."""
    folder = root / "overlays" / key
    with held(folder.with_name(f"{key}.lock")) as lock:
        while True:
            lock.share()
            overlay = _read(folder, was_cached=True)
            if overlay is not None:
                yield overlay
                return
            lock.own()
            # Another process may have built it while this one waited.
            if _read(folder, was_cached=True) is None:
                _build(folder, planned, remarks, seconds=seconds)
                lock.share()
                made = _read(folder, was_cached=False)
                if made is not None:
                    yield made
                    return


def _read(folder: Path, *, was_cached: bool) -> Overlay | None:
    """Return a finished overlay, or None: absent, half built, of another form, or damaged."""
    python = folder / "bin" / "python"
    try:
        marker = msgspec.json.decode((folder / _MARKER).read_bytes(), type=_Marker)
    except (OSError, msgspec.DecodeError):
        return None
    if marker.schema_version != _SCHEMA or not os.access(python, os.X_OK):
        return None
    if _versions_in(folder) != marker.packages:
        return None
    return Overlay(
        folder=folder,
        python=python,
        packages=marker.packages,
        planned=tuple(marker.planned),
        remarks=tuple(marker.remarks),
        size_bytes=marker.size_bytes,
        was_cached=was_cached,
    )


def _build(
    folder: Path, planned: Sequence[Planned], remarks: Sequence[str], *, seconds: float
) -> None:
    """Make the venv, install what was planned, and write the marker; all of it, or nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
        packages = _packages_folder(folder)
        # `addsitedir`, so that what is installed there as editable is found, too. It appends: the
        # overlay's own packages stay in front.
        lines = [f"import site; site.addsitedir({path!r})" for path in _site_folders()]
        (packages / "_running_environment.pth").write_text("\n".join([*lines, ""]))
        python = folder / "bin" / "python"
        if planned:
            install(python, planned, seconds=seconds)
        said = [*remarks, *(f"pip check: {line}" for line in _new_conflicts(python, planned))]
        marker = _Marker(
            schema_version=_SCHEMA,
            packages=_versions_in(folder),
            planned=list(planned),
            remarks=said,
            size_bytes=sum(
                file.lstat().st_size for file in folder.rglob("*") if not file.is_symlink()
            ),
        )
        missing = {one.name for one in planned} - marker.packages.keys()
        if missing:
            what = " ".join(sorted(missing))
            raise PipError(what, f"pip installed nothing of that name into {folder}")  # noqa: TRY301
        write_atomic(folder / _MARKER, msgspec.json.encode(marker))
    except BaseException as error:
        # An interrupt leaves nothing half built either.
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            msg = f"{folder}: cannot be built ({error.strerror or error})"
            raise InputError(msg) from error
        raise


def _new_conflicts(python: Path, planned: Sequence[Planned]) -> list[str]:
    """Return what `pip check` says of the packages that change; of the rest it is no news."""
    names = {one.name.replace("_", "-") for one in planned}
    return [
        line
        for line in conflicts(python)
        if any(f" {name}" in f" {line.lower().replace('_', '-')}" for name in names)
    ]


def _packages_folder(folder: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))


def _versions_in(folder: Path) -> dict[str, str]:
    """Return name and version of what is installed in an overlay itself."""
    from importlib.metadata import distributions

    from packaging.utils import canonicalize_name

    found = distributions(path=[str(_packages_folder(folder))])
    return dict(sorted((canonicalize_name(one.name), one.version) for one in found))
