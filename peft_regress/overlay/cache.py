"""Make the folder that overlays are kept in, and remove overlays from it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from peft_regress.errors import InputError
from peft_regress.files import CACHE_VARIABLE, cache_folder
from peft_regress.locks import opened_lock
from peft_regress.overlay.folder import remove_folder


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
