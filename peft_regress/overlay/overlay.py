"""Open an overlay: a venv with the packages that differ, over the running environment.

Its own packages come first on its path and those of the running environment after them: torch is
shared unless it changes. Nothing is ever installed outside of the overlay.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from peft_regress.errors import InputError
from peft_regress.files import CACHE_VARIABLE, cache_folder, write_atomic
from peft_regress.locks import opened_lock
from peft_regress.overlay import base_environment
from peft_regress.overlay.folder import (
    SCHEMA,
    Overlay,
    build_folder,
    modules_in,
    read_folder,
    remove_folder,
)
from peft_regress.overlay.pip import PIP_SECONDS, Planned, index_settings, plan
from peft_regress.overlay.requirements import (
    Wanted,
    constraints_for,
    read_requirements,
)
from peft_regress.runs.environment import installed_packages

GATED_PACKAGES: Final = ("galore-torch", "peft", "torch", "torchvision")
"""pip must find a common solution for all of them, whichever one a user names."""

_PATIENCE_SECONDS: Final = 3600.0
"""How long to wait for an overlay that another process builds: it may download gigabytes."""


class ReplacesTorchError(InputError):
    """A requirement that would replace torch, and nobody has agreed to that."""

    def __init__(self, requirements: str, old: str, new: str) -> None:
        self.old = old
        self.new = new
        super().__init__(
            f"{requirements}: would replace torch {old} by {new}, a download of up to gigabytes. "
            "Add --yes to agree"
        )


class _Resolved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The overlay that some requirements led to; pip need not resolve them again."""

    schema_version: int
    key: str
    """The name of the overlay's folder."""
    remarks: list[str]


@contextmanager
def opened_overlay(
    requirements: Sequence[str],
    *,
    replace_torch: bool = False,
    pre: bool = False,
    seconds: float = PIP_SECONDS,
) -> Iterator[Overlay]:
    """Build the overlay of some requirements, or take an existing one, and keep it from removal.

    `seconds` is what one call of pip may take. Raises `InputError` if a text is no requirement or a
    folder of PYTHONPATH would hide a package, `PipError` if pip finds no solution or cannot install
    it, `ReplacesTorchError` if torch would change without `replace_torch`.
    """
    root = made_folder()
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as scratch:
        wanted = read_requirements(requirements, scratch=Path(scratch), seconds=seconds, pre=pre)
        request = _request_file(root, wanted, pre=pre)
        known = None if request is None else _known(request)
        if known is not None:
            with _in_use(root, known.key) as overlay:
                if overlay is not None:
                    _check_torch(wanted, overlay.planned, replace_torch=replace_torch)
                    yield _of_request(overlay, wanted, known.remarks)
                    return
        planned, remarks = _resolved(wanted, pre=pre, seconds=seconds)
        _check_torch(wanted, planned, replace_torch=replace_torch)
        key = _key(planned)
        with _built(root, key, planned, seconds=seconds) as overlay:
            if request is not None:
                found = _Resolved(schema_version=SCHEMA, key=key, remarks=remarks)
                write_atomic(request, msgspec.json.encode(found))
            yield _of_request(overlay, wanted, remarks)


@contextmanager
def opened_part(planned: Sequence[Planned], *, seconds: float = PIP_SECONDS) -> Iterator[Overlay]:
    """Build an overlay of some packages of another one, without what else they would need."""
    with _built(made_folder(), _key(planned), planned, seconds=seconds) as overlay:
        yield _of_request(overlay, (), ())


def _resolved(
    wanted: Sequence[Wanted], *, pre: bool, seconds: float
) -> tuple[tuple[Planned, ...], list[str]]:
    """Return what pip would install, and sentences about what was added to the requirements."""
    texts = [requirement.text for requirement in wanted]
    named = {requirement.name for requirement in wanted}
    shown = _shown(wanted)
    # pip ignores what installed packages need: without these names it may break one of them.
    texts += [name for name in GATED_PACKAGES if name not in named]
    planned = plan(texts, what=shown, seconds=seconds, pre=pre)
    added = constraints_for(planned, wanted, installed_packages())
    if added:
        extra = [one.requirement for one in added]
        what = f"{shown} with {' '.join(extra)} (added: {'; '.join(one.reason for one in added)})"
        planned = plan([*texts, *extra], what=what, seconds=seconds, pre=pre)
    planned = _sourced(planned + _left_out(wanted, planned, seconds=seconds), wanted)
    remarks = [f"{one.requirement} was added: {one.reason}" for one in added]
    remarks += [f"{one.name} {one.version} was yanked" for one in planned if one.is_yanked]
    return planned, remarks


def _left_out(
    wanted: Sequence[Wanted], planned: Sequence[Planned], *, seconds: float
) -> tuple[Planned, ...]:
    """Plan the wheels, checkouts and commits whose version is the installed one.

    pip skips them because the versions are equal, but their content may differ.
    """
    names = {one.name for one in planned}
    lacking = [one for one in wanted if " @ " in one.text and one.name not in names]
    if not lacking:
        return ()
    texts = [one.text for one in lacking]
    return plan(texts, what=_shown(lacking), seconds=seconds, only_these=True)


def _sourced(planned: Sequence[Planned], wanted: Sequence[Wanted]) -> tuple[Planned, ...]:
    """Identify each wheel by its content, and take it from its current path."""
    named = {one.name: one for one in wanted if " @ " in one.text and one.identity is not None}
    return tuple(
        dataclasses.replace(one, source=named[one.name].text, digest=named[one.name].identity)
        if one.name in named
        else one
        for one in sorted(planned, key=lambda one: one.name)
    )


def _of_request(overlay: Overlay, wanted: Sequence[Wanted], remarks: Sequence[str]) -> Overlay:
    hidden = base_environment.hiding_folder(modules_in(overlay), set(overlay.packages))
    if hidden is not None:
        folder, name = hidden
        raise InputError(
            f"{folder}: its {name} would hide the one to try; take the folder off PYTHONPATH"
        )
    return dataclasses.replace(
        overlay,
        planned=_sourced(overlay.planned, wanted),
        remarks=(*remarks, *overlay.remarks),
        requested=tuple(one.name for one in wanted),
    )


def _shown(wanted: Sequence[Wanted]) -> str:
    return " ".join(requirement.shown for requirement in wanted)


def _check_torch(
    wanted: Sequence[Wanted], planned: Sequence[Planned], *, replace_torch: bool
) -> None:
    for one in planned:
        if one.name == "torch" and not replace_torch:
            old = installed_packages().get("torch", "absent")
            raise ReplacesTorchError(_shown(wanted), old, one.version)


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode([SCHEMA, value])).hexdigest()[:20]


def _key(planned: Sequence[Planned]) -> str:
    """Return the name of an overlay: a digest of its packages and of the running environment."""
    content = [(one.name, one.version, one.digest or one.source) for one in planned]
    return _digest([base_environment.identity(), sorted(content)])


def _request_file(root: Path, wanted: Sequence[Wanted], *, pre: bool) -> Path | None:
    identities = sorted(requirement.identity or "" for requirement in wanted)
    if not all(identities):
        return None
    # pip's plan depends on the installed packages and on what its environment variables say.
    variables = {**os.environ, **index_settings(os.environ)}
    settings = sorted(f"{k}={v}" for k, v in variables.items() if k.startswith("PIP_"))
    given = [
        base_environment.identity(),
        base_environment.installed_names(),
        settings,
        pre,
        identities,
    ]
    return root / "requests" / f"{_digest(given)}.json"


def _known(request: Path) -> _Resolved | None:
    try:
        return msgspec.json.decode(request.read_bytes(), type=_Resolved)
    except (OSError, ValueError):
        return None


@contextmanager
def _in_use(root: Path, key: str) -> Iterator[Overlay | None]:
    """Hold an existing overlay; None if it is absent or incomplete."""
    folder = root / "overlays" / key
    with opened_lock(lock_file(folder), patience=_PATIENCE_SECONDS) as lock:
        lock.share()
        yield read_folder(folder, was_cached=True)


@contextmanager
def _built(
    root: Path, key: str, planned: Sequence[Planned], *, seconds: float
) -> Iterator[Overlay]:
    """Build an overlay unless it exists, then hold it together with other processes."""
    folder = root / "overlays" / key
    with opened_lock(lock_file(folder), patience=_PATIENCE_SECONDS) as lock:
        while True:
            lock.share()
            overlay = read_folder(folder, was_cached=True)
            if overlay is not None:
                yield overlay
                return
            lock.own()
            # Another process may have built it while this one waited.
            if read_folder(folder, was_cached=True) is None:
                # pip shares the lock: it may go on for a while if this process is killed.
                build_folder(folder, planned, seconds=seconds, keep_open=[lock.handle])
                lock.share()
                made = read_folder(folder, was_cached=False)
                if made is not None:
                    yield made
                    return


def made_folder() -> Path:
    """Make the folders for overlays and requests; raises `InputError` if they cannot be used."""
    root = cache_folder()
    try:
        for name in ("overlays", "requests"):
            (root / name).mkdir(parents=True, exist_ok=True)
            # The folder may belong to another user, or its disk may be full.
            with tempfile.TemporaryFile(dir=root / name):
                pass
    except OSError as error:
        raise InputError(
            f"{root}: overlays cannot be kept there ({error.strerror or error}); "
            f"set {CACHE_VARIABLE} to another folder"
        ) from error
    return root


def lock_file(folder: Path) -> Path:
    """Return the lock file of an overlay; it is not in its folder, so it outlives the overlay."""
    return folder.with_name(f"{folder.name}.lock")


def clean_overlays() -> tuple[list[str], list[str]]:
    """Remove every overlay that nobody uses; return the names of removed and of used ones."""
    root = cache_folder()
    removed: list[str] = []
    used: list[str] = []
    if not root.is_dir():
        return removed, used
    for name in sorted({entry.stem for entry in root.glob("overlays/*")}):
        folder = root / "overlays" / name
        with opened_lock(lock_file(folder)) as lock:
            if not lock.own_now():
                used.append(name)
            elif folder.exists():
                remove_folder(folder)
                removed.append(name)
    for request in root.glob("requests/*"):
        request.unlink(missing_ok=True)
    return removed, used
