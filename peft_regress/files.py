"""Read files; write them completely or not at all."""

import errno
import os
import secrets
import tomllib
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import platformdirs

from peft_regress.errors import InputError, UnknownNameError

_Record = TypeVar("_Record", bound=msgspec.Struct)

_LARGEST_BYTES = 2**28
"""A hundred times the size of a run file of the default matrix."""

_STREAMS: Final = ("/dev", "/dev/fd")
"""The folders of what the shell has opened: /dev/stdin, `<(command)`."""

CACHE_VARIABLE: Final = "PEFT_REGRESS_CACHE"


def cache_folder() -> Path:
    """Return `PEFT_REGRESS_CACHE` or the user's cache. Raises `InputError` without a home."""
    chosen = os.environ.get(CACHE_VARIABLE)
    folder = Path(chosen or platformdirs.user_cache_dir("peft-regress", appauthor=False))
    try:
        folder = folder.expanduser()
    except RuntimeError as error:
        raise InputError(
            f"no cache folder is known ({error}); set {CACHE_VARIABLE} to one"
        ) from error
    return folder.absolute()


# The methods of `Path` raise for a name that is too long, holds NUL or leads in a circle. So what a
# user typed is asked for by these functions only.


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; one that the system refuses is not."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file; one that the system refuses is not."""
    return os.path.isfile(path)  # noqa: PTH113


def resolved(path: Path) -> Path:
    """Return a path without links, as far as they lead anywhere."""
    return Path(os.path.realpath(path))


def path_problem(path: Path) -> str | None:
    """Return why no file can have this name; None if one could."""
    try:
        os.lstat(path)
    except ValueError:
        return "a name cannot hold the character NUL"
    except OSError as error:
        if error.errno in {errno.ENAMETOOLONG, errno.ELOOP}:
            return error.strerror
    return None


def read_toml(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read a TOML file. remedy: what to do if it cannot be read. Raises `InputError`."""
    try:
        return tomllib.loads(read_bytes(path).decode())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError) as error:  # also for a number of 5,000 digits
        raise InputError(f"{path}: is not valid TOML ({error})") from error


def read_table(table: Any, kind: type[_Record], where: str) -> _Record:
    """Return a table of TOML as a record of a kind, a `msgspec.Struct`.

    where: what an error names. Raises `UnknownNameError` for an unknown key, which has the closest
    one, and `InputError` for a missing key and for a value of another type.
    """
    if isinstance(table, dict):
        known = [field.encode_name for field in msgspec.structs.fields(kind)]
        for key in table:
            if key not in known:
                raise UnknownNameError(f"key of {where}", key, known)
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}") from None


def read_bytes(path: Path) -> bytes:
    """Read a whole file. Raises `OSError`, also for one larger than any run file: /dev/zero.

    A FIFO is refused, unless the shell opened it: its writer may never come.
    """
    if path.is_fifo() and str(path.parent) not in _STREAMS:
        raise OSError(errno.EINVAL, "is a FIFO", str(path))
    with path.open("rb") as stream:
        content = stream.read(_LARGEST_BYTES + 1)
    if len(content) > _LARGEST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {_LARGEST_BYTES >> 20} MiB", str(path))
    return content


def encoded(message: object) -> bytes:
    """Return a message as JSON. Raises `InputError` for a path in it that is not UTF-8."""
    try:
        return msgspec.json.encode(message)
    except UnicodeEncodeError as error:
        raise InputError(f"{error.object}: is not UTF-8; rename it") from None


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file in one step, or leave it unchanged and raise `InputError`.

    What is not a regular file, such as a FIFO or /dev/stdout, is written to and never replaced.
    """
    try:
        if str(path.parent) in _STREAMS or (path.exists() and not path.is_file()):
            with path.open("ab") as stream:
                stream.write(content)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".peft-regress-{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); it is unchanged. "
            "Free some space or choose another path, then run the same command again."
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left below a folder to which nobody writes now."""
    for path in folder.rglob(".peft-regress-*.tmp"):
        path.unlink(missing_ok=True)
