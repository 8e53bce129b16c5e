"""What a storage keeps under the digest of its content: written once, whole, never overwritten."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from peft_regress.baselines.chain import adapter_folder, check_inside
from peft_regress.baselines.contents import Contents
from peft_regress.baselines.stored_adapters import ADDRESS, Adapter, old_folders, read_stored
from peft_regress.errors import InputError
from peft_regress.files import (
    TEMPORARY,
    make_folder,
    remove_leftovers,
    sync_folder,
    temporary_name,
    write_atomic,
)
from peft_regress.runs.ledgers import ledger_content, ledger_file, read_ledger
from peft_regress.runs.schema import Ledger


def store_ledger(root: Path, digest: str, ledger: Ledger) -> None:
    """Write a ledger unless the storage has it. Raises `InputError`, also if it was altered."""
    folder = root / "ledgers"
    path = ledger_file(folder, digest)
    check_inside(root, path)
    if not path.exists():
        write_atomic(path, ledger_content(ledger))
        return
    try:
        read_ledger(folder, digest)
    except InputError as error:
        raise InputError(f"{error}. Restore it with `git checkout -- {path}`.") from error


def store_adapter(root: Path, adapter: Adapter) -> bool:
    """Write an adapter unless the storage has it; return whether it was written.

    Its folder is filled under another name and renamed once it is whole. Raises `OSError`, and
    `InputError` if it was altered.
    """
    target = adapter_folder(root, adapter.digest)
    if target.exists():
        read_stored(target)
        return False
    make_folder(target.parent)
    scratch = target.parent / temporary_name()
    scratch.mkdir()
    try:
        for name, content in adapter.contents().items():
            _write_new(scratch / name, content)
        sync_folder(scratch)
        read_stored(scratch, address=target.name)
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    sync_folder(target.parent)
    return True


def _write_new(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def remove_litter(root: Path, contents: Contents) -> None:
    """Remove what an accept that did not end left behind: what none of all entries names.

    Of a storage from before also the adapters that an entry carried over. Call it under the lock.
    What cannot be removed now stays for the next time.
    """
    ledgers = {ledger_file(root / "ledgers", digest) for digest in contents.ledgers}
    adapters = {adapter_folder(root, digest) for digest in contents.adapters}
    litter = [
        *(one for one in root.glob("adapters/.*") if TEMPORARY.fullmatch(one.name)),
        *(one for one in root.glob("ledgers/??/*.json.gz") if one not in ledgers),
        *(
            one
            for one in root.glob("adapters/*")
            if ADDRESS.fullmatch(one.name) and one not in adapters
        ),
    ]
    if contents.has_addresses:
        litter += old_folders(root)
    for folder in (root, *root.glob("*/"), *root.glob("ledgers/??/")):
        with contextlib.suppress(OSError):
            remove_leftovers(folder)
    for path in litter:
        with contextlib.suppress(OSError):
            if path.resolve().is_relative_to(root.resolve()):  # never through a link
                _remove(path)


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink()
        return
    # Under another name first, so that half of an adapter never passes for one.
    scratch = path.with_name(temporary_name())
    path.rename(scratch)
    shutil.rmtree(scratch)
