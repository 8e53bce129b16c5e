"""Where overlays are kept, and how they are removed."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from peft_regress.environments.overlay.folder import remove_folder
from peft_regress.errors import InputError
from peft_regress.files import opened_lock

__all__ = ["cache_folder", "clean_overlays", "lock_file", "made_folder"]

_VARIABLE: Final = "PEFT_REGRESS_CACHE"


def cache_folder() -> Path:
    """Return where overlays are kept: `PEFT_REGRESS_CACHE`, or the user's cache folder."""
    chosen = os.environ.get(_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "peft-regress"
        # A relative one is to be ignored, by the XDG specification.
        root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        msg = f"no folder for overlays is known ({error}); set {_VARIABLE} to one"
        raise InputError(msg) from error
    return root / "peft-regress"


def made_folder() -> Path:
    """Make the folders for overlays and requests; raises `InputError` where they cannot be used."""
    root = cache_folder()
    try:
        for name in ("overlays", "requests"):
            (root / name).mkdir(parents=True, exist_ok=True)
            # A folder may be there and not be for this user, or on a full disk.
            with tempfile.TemporaryFile(dir=root / name):
                pass
    except OSError as error:
        msg = (
            f"{root}: overlays cannot be kept there ({error.strerror or error}); "
            f"set {_VARIABLE} to another folder"
        )
        raise InputError(msg) from error
    return root


def lock_file(folder: Path) -> Path:
    """Return the file by which an overlay is locked: beside it, so that it outlives it."""
    return folder.with_name(f"{folder.name}.lock")


def clean_overlays() -> tuple[list[str], list[str]]:
    """Remove every overlay that nobody uses; return those removed, and those in use."""
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
