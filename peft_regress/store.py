"""Read and write run files and the baseline storage: all JSON file IO is here.

A run file is a pytest-benchmark JSON with the object `peft_regress` beside its own keys. Reading
checks everything that the gate relies on; writing is atomic, so that a kill or a full disk leaves
either the old file or the new one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import filelock
import msgspec

from peft_regress.errors import AbsentError, InputError, RunFileError
from peft_regress.records import (
    MIXED_MACHINES,
    SCHEMA_VERSION,
    Acceptance,
    Run,
    Selection,
    check_consistent,
    check_finite,
    content_digest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "RunFile",
    "StoredRun",
    "accept_run",
    "baseline_files",
    "dump_json",
    "is_folder",
    "read_run",
    "read_run_file",
    "read_runs",
    "run_document",
    "without_host",
    "write_atomic",
    "write_run_file",
]

_LINE_WIDTH = 140
_DEEPEST = 6  # a phase of a ledger: a line of its own, however many modules it names
_ENTRY_NAME = re.compile(r"^(\d{4,})_.+\.json$")
_OTHER_FOLDERS = frozenset({"sources", "adapters"})
_CONFLICT = re.compile(rb"^(<{7}|={7}|>{7})", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A run file as read: the checked run, and pytest-benchmark's own part as it stands."""

    path: Path
    run: Run
    document: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run and the file or folder it came from."""

    path: Path
    run: Run


def read_run_file(path: Path) -> RunFile:
    """Read and check one run file.

    Raises `InputError` where there is no such file, `RunFileError` where it cannot be trusted.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        msg = f"{path}: no such run file. Make one with `pytest benchmarks --regress-save {path}`."
        raise InputError(msg) from None
    except OSError as error:
        raise RunFileError(path, f"cannot be read ({error.strerror})", "Check the path.") from error
    document = _parse(path, content)
    return RunFile(path=path, run=_check(path, document.pop("peft_regress")), document=document)


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; one that is too long for the system is none."""
    # `Path.is_dir` raises for such a path.
    return os.path.isdir(path)  # noqa: PTH112


def read_run(path: Path) -> StoredRun:
    """Read a run file, or the union of the run files of a folder (the shards of one run).

    A case that stands in two files of the folder is an error: which one would count?
    """
    if not is_folder(path):
        return StoredRun(path=path, run=read_run_file(path).run)
    files = sorted(path.glob("*.json"))
    if not files:
        msg = f"{path}: the folder holds no run file (*.json)"
        raise InputError(msg)
    return StoredRun(path=path, run=_union(path, [read_run_file(file) for file in files]))


def baseline_files(root: Path) -> list[Path]:
    """List the entries of a baseline storage, `<machine id>/NNNN_<name>.json`, oldest first.

    Raises `RunFileError` for a JSON file that is no entry, `InputError` for a folder that cannot be
    read: either could be the newest baseline, which must not be passed over in silence.
    """
    if not is_folder(root):
        return []
    try:
        folders = [path for path in root.iterdir() if path.is_dir()]
        folders = [path for path in folders if not path.name.startswith(".")]
        found = [
            path
            for folder in folders
            if folder.name not in _OTHER_FOLDERS
            for path in folder.iterdir()
        ]
    except OSError as error:
        msg = f"{error.filename}: cannot be read ({error.strerror}). Check its permissions."
        raise InputError(msg) from error
    entries = [path for path in found if path.suffix == ".json" and not path.name.startswith(".")]
    for path in entries:
        if not _ENTRY_NAME.match(path.name):
            raise RunFileError(
                path,
                "is no entry: <machine id>/NNNN_<name>.json is",
                "Give it back its name, or move it out of the baselines.",
            )
    return sorted(entries, key=lambda path: (_entry_number(path), path.as_posix()))


def read_runs(root: Path) -> list[StoredRun]:
    """Read every entry of a baseline storage; one that cannot be trusted fails the whole read."""
    stored = []
    for path in baseline_files(root):
        run = read_run_file(path).run
        if run.accepted is None:
            raise RunFileError(
                path,
                "stands among the baselines but was never accepted",
                f"Move it away and type `peft-regress accept {path.name} --reason TEXT`.",
            )
        stored.append(StoredRun(path=path, run=run))
    return stored


def accept_run(source: Path, *, root: Path, reason: str, date: str, history: bool = False) -> Path:
    """Copy a run into the baseline storage as its newest entry, and return the new file.

    Raises `AbsentError` where there is no such run, `InputError` where it holds no case or cannot
    be trusted, or the reason is empty.
    """
    if not reason.strip():
        msg = "a baseline needs a reason: --reason TEXT says why the new numbers are right"
        raise InputError(msg)
    if not reason.isprintable():
        msg = f"--reason {reason!a}: plain text on one line is wanted"
        raise InputError(msg)
    run, document = _read_for_accept(source)
    if not run.cases:
        msg = f"{source}: the run holds no case, so there is nothing to accept"
        raise InputError(msg)
    accepted = Acceptance(reason=reason, date=date, role="history" if history else "baseline")
    run = msgspec.structs.replace(run, accepted=accepted)
    document["machine_info"] = without_host(document.get("machine_info", {}))
    folder = root / _machine_id(document)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two accepts at once must not take the same number.
        with filelock.FileLock(root / ".lock"):
            number = 1 + max((_entry_number(path) for path in baseline_files(root)), default=0)
            target = folder / f"{number:04d}_{_entry_title(run)}.json"
            write_run_file(target, run, document)
    except OSError as error:
        msg = f"{root}: cannot be written ({error.strerror or error}); nothing was accepted"
        raise InputError(msg) from error
    return target


def run_document(run: Run, document: dict[str, Any]) -> dict[str, Any]:
    """Join pytest-benchmark's part and ours, with the content digest set."""
    for name, record in run.cases.items():
        check_finite(record.metrics, name)
    # As a reader will see it (a sample 1 is read as 1.0), or the digest would not be the file's.
    run = msgspec.convert(msgspec.to_builtins(run), Run)
    run = msgspec.structs.replace(run, content_digest=content_digest(run))
    return {**document, "peft_regress": msgspec.to_builtins(run)}


def write_run_file(path: Path, run: Run, document: dict[str, Any]) -> None:
    """Write a run file atomically."""
    write_atomic(path, dump_json(run_document(run, document)).encode())


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file in one step, or leave it as it was and raise `InputError`.

    What is no regular file, such as /dev/stdout, is written to and never replaced.
    """
    temporary: str | None = None
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes the file private; a baseline is as public as its neighbours.
        os.chmod(temporary, 0o644)  # noqa: PTH101
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException as error:
        # An interrupt leaves no litter either.
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
        if not isinstance(error, OSError):
            raise
        msg = (
            f"{path}: cannot be written ({error.strerror or error}); what was there stands. "
            "Free some space or choose another path, then run the same command again."
        )
        raise InputError(msg) from error


def dump_json(value: Any) -> str:
    """Format JSON for review: what fits on one line, or lies deep, stays on one line.

    So a metric is one line of a diff, and so is a phase of a ledger.
    """
    return "".join(_format(value, 0)) + "\n"


def _format(value: Any, indent: int) -> Iterable[str]:
    compact = json.dumps(value, ensure_ascii=True, allow_nan=False)
    fits = len(compact) + indent <= _LINE_WIDTH or indent >= _DEEPEST
    if fits or not isinstance(value, dict | list):
        yield compact
        return
    inner = "\n" + " " * (indent + 1)
    is_mapping = isinstance(value, dict)
    yield "{" if is_mapping else "["
    for position, item in enumerate(value.items() if isinstance(value, dict) else value):
        yield ("," if position else "") + inner
        if is_mapping:
            yield json.dumps(str(item[0])) + ": "
            yield from _format(item[1], indent + 1)
        else:
            yield from _format(item, indent + 1)
    yield "\n" + " " * indent + ("}" if is_mapping else "]")


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    restore = f"Restore it with `git checkout -- {path}`, or make it again."
    if _CONFLICT.search(content):
        raise RunFileError(path, "holds git conflict markers", "Resolve the merge first.")
    try:
        # Python's reader and not msgspec's: only it can see a key that stands twice.
        document = json.loads(content, object_pairs_hook=_unique_keys, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise RunFileError(path, f"is not valid JSON ({error})", restore) from error
    if not isinstance(document, dict):
        raise RunFileError(path, "is not a JSON object", restore)
    ours = document.get("peft_regress")
    if not isinstance(ours, dict):
        raise RunFileError(
            path,
            "has no object 'peft_regress', so it is not a run file of this tool",
            "A plain pytest-benchmark file cannot be gated; use `--regress-save PATH`.",
        )
    for key, kind in (("benchmarks", list), ("machine_info", dict)):
        if not isinstance(document.get(key, kind()), kind):
            raise RunFileError(path, f"{key!r} is no {kind.__name__}: no pytest-benchmark", restore)
    _check_schema(path, ours.get("schema_version"))
    return document


def _check_schema(path: Path, version: object) -> None:
    if version is None:
        raise RunFileError(path, "has no schema_version", "Make the run file again.")
    if not isinstance(version, int) or isinstance(version, bool):
        raise RunFileError(path, f"has schema_version {version!r}", "Make the run file again.")
    if version > SCHEMA_VERSION:
        raise RunFileError(
            path,
            f"has schema_version {version}, newer than {SCHEMA_VERSION}, which this version reads",
            "Upgrade with `pip install -U peft-regress`.",
        )
    if version < SCHEMA_VERSION:
        raise RunFileError(
            path,
            f"has schema_version {version}, older than {SCHEMA_VERSION}, which this version reads",
            "Make the run again and `peft-regress accept` it.",
        )


def _check(path: Path, ours: dict[str, Any]) -> Run:
    restore = f"Restore it with `git checkout -- {path}`, or make the run again."
    try:
        run = msgspec.convert(ours, Run)
    except msgspec.ValidationError as error:
        raise RunFileError(path, f"does not fit the schema: {error}", restore) from error
    try:
        digest = content_digest(run)
    except UnicodeEncodeError as error:
        raise RunFileError(path, f"holds text that is not Unicode ({error})", restore) from error
    if run.content_digest != digest:
        raise RunFileError(
            path,
            f"was altered after it was written (content_digest {run.content_digest or 'absent'}, "
            f"content {digest})",
            f"Numbers change through `peft-regress accept` alone. {restore}",
        )
    if run.accepted is not None and not _is_moment(run.accepted.date):
        problem = f"was accepted on {run.accepted.date!r}, which is no ISO 8601 time with a zone"
        raise RunFileError(path, problem, restore)
    for name, record in run.cases.items():
        if name != record.case.id:
            raise RunFileError(
                path, f"case {name!r} holds the record of {record.case.id!r}", restore
            )
        try:
            check_finite(record.metrics, name)
            check_consistent(record, name)
        except InputError as error:
            raise RunFileError(path, str(error), restore) from error
    return run


def _is_moment(text: str) -> bool:
    try:
        return dt.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def without_host(machine_info: dict[str, Any]) -> dict[str, Any]:
    """Return pytest-benchmark's machine_info without host name and the page of CPU flags."""
    cpu = machine_info.get("cpu")
    cpu = {k: v for k, v in cpu.items() if k != "flags"} if isinstance(cpu, dict) else cpu
    return {**machine_info, "node": "", "cpu": cpu}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                msg = f"the key {key!r} stands twice in one object"
                raise ValueError(msg)
            seen.add(key)
    return result


def _refuse(constant: str) -> Any:
    msg = f"{constant} is not a JSON number"
    raise ValueError(msg)


def _union(folder: Path, files: list[RunFile]) -> Run:
    first = files[0].run
    cases: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for file in files:
        if file.run.environment != first.environment:
            differing = _first_difference(first.environment, file.run.environment)
            pair = f"{files[0].path.name} and {file.path.name}"
            msg = f"{folder}: {pair} are not shards of one run: {differing}"
            raise InputError(msg)
        for name, record in file.run.cases.items():
            if name in cases:
                msg = (
                    f"{folder}: case {name} stands in {origin[name].name} and in {file.path.name}; "
                    "move one of the files away"
                )
                raise InputError(msg)
            cases[name] = record
            origin[name] = file.path
    same_machine = all(file.run.machine == first.machine for file in files)
    mixed = msgspec.structs.replace(first.machine, digest=MIXED_MACHINES, cpu="several machines")
    return Run(
        schema_version=SCHEMA_VERSION,
        environment=first.environment,
        machine=first.machine if same_machine else mixed,
        selection=_union_selection([file.run for file in files], set(cases)),
        cases=dict(sorted(cases.items())),
    )


def _union_selection(runs: list[Run], present: set[str]) -> Selection:
    left_out = sorted({name for run in runs for name in run.selection.not_selected} - present)
    narrowed = sorted({how for run in runs for how in run.selection.narrowed_by})

    def is_whole(selection: Selection) -> bool:
        # Shards are narrowed one by one; together they are complete when nothing is left out.
        # Incomplete without being narrowed is a run that was interrupted.
        how = selection.narrowed_by
        shard_only = bool(how) and all(text.startswith("--regress-shard") for text in how)
        return selection.complete or shard_only

    complete = not left_out and all(is_whole(run.selection) for run in runs)
    return Selection(
        complete=complete, narrowed_by=[] if complete else narrowed, not_selected=left_out
    )


def _first_difference(old: dict[str, str], new: dict[str, str]) -> str:
    for package in sorted(old.keys() | new.keys()):
        if old.get(package) != new.get(package):
            versions = (old.get(package, "absent"), new.get(package, "absent"))
            return "{} is {} in one, {} in the other".format(package, *versions)
    return "no difference"


def _read_for_accept(source: Path) -> tuple[Run, dict[str, Any]]:
    if not is_folder(source):
        if not source.exists():
            msg = f"{source}: no such run file. Make one with `tox run -e bench`."
            raise AbsentError(msg)
        file = read_run_file(source)
        return file.run, file.document
    files = [read_run_file(path) for path in sorted(source.glob("*.json"))]
    if not files:
        msg = f"{source}: the folder holds no run file (*.json)"
        raise InputError(msg)
    document = dict(files[0].document)
    document["benchmarks"] = [
        entry for file in files for entry in file.document.get("benchmarks", ())
    ]
    return _union(source, files), document


def _entry_number(path: Path) -> int:
    match = _ENTRY_NAME.match(path.name)
    return int(match.group(1)) if match else 0


def _entry_title(run: Run) -> str:
    version = run.environment.get("peft")
    return re.sub(r"[^A-Za-z0-9.+-]", "-", f"peft-{version}" if version else "run")


def _machine_id(document: dict[str, Any]) -> str:
    """Name the storage folder as pytest-benchmark does, of the machine that made the run."""
    info = document.get("machine_info", {})
    python = ".".join(str(info.get("python_version", "0.0")).split(".")[:2])
    bits = "64bit" if "64" in str(info.get("machine", "64")) else "32bit"
    parts = (info.get("system", "Unknown"), info.get("python_implementation", "CPython"), python)
    return re.sub(r"[^A-Za-z0-9._-]", "-", "-".join([*map(str, parts), bits]))
