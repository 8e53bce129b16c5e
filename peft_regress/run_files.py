"""Read, check and write one run file.

A run file is a pytest-benchmark JSON with the object `peft_regress` beside its own keys. Reading
checks everything that the gate relies on.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from peft_regress.errors import InputError, RunFileError
from peft_regress.files import write_atomic
from peft_regress.json_format import dump_json
from peft_regress.records import (
    SCHEMA_VERSION,
    Ledger,
    Run,
    check_consistent,
    check_finite,
    content_digest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from peft_regress.records import Record

__all__ = ["RunFile", "read_run_file", "run_document", "without_host", "write_run_file"]

_CONFLICT = re.compile(rb"^(<{7}|={7}|>{7})", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A run file as read: the checked run, and pytest-benchmark's own part as it stands."""

    path: Path
    run: Run
    document: dict[str, Any]


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


def run_document(run: Run, document: dict[str, Any]) -> dict[str, Any]:
    """Join pytest-benchmark's part and ours, with the content digest set."""
    for name, record in run.cases.items():
        check_finite(record.metrics, name)
    # As a reader will see it (a sample 1 is read as 1.0), or the digest would not be the file's.
    run = msgspec.convert(msgspec.to_builtins(_with_shared_ledgers(run)), Run)
    run = msgspec.structs.replace(run, content_digest=content_digest(run))
    return {**document, "peft_regress": msgspec.to_builtins(run)}


def _with_shared_ledgers(run: Run) -> Run:
    """Keep a ledger once, and let the other cases that have it name the first."""
    holders: dict[tuple[str, int | None, str], str] = {}
    cases = dict(run.cases)
    for name, record in run.cases.items():
        holder = holders.setdefault(record.case.adaptation, name)
        if holder != name and run.cases[holder].ledger == record.ledger != Ledger():
            cases[name] = msgspec.structs.replace(record, ledger=Ledger(same_as=holder))
    return msgspec.structs.replace(run, cases=cases)


def _with_own_ledgers(run: Run) -> Run:
    """Undo `_with_shared_ledgers`."""
    cases = dict(run.cases)
    for name, record in run.cases.items():
        holder = record.ledger.same_as
        if holder is UNSET:
            continue
        ledger = run.cases[holder].ledger if holder in run.cases else Ledger(same_as=holder)
        if ledger.same_as is not UNSET or record.ledger != Ledger(same_as=holder):
            msg = f"{name}: its ledger is said to be that of {holder!r}, which holds none"
            raise InputError(msg)
        cases[name] = msgspec.structs.replace(record, ledger=ledger)
    return msgspec.structs.replace(run, cases=cases)


def write_run_file(path: Path, run: Run, document: dict[str, Any]) -> None:
    """Write a run file atomically."""
    write_atomic(path, dump_json(run_document(run, document)).encode())


def without_host(machine_info: dict[str, Any]) -> dict[str, Any]:
    """Return pytest-benchmark's machine_info without host name and the page of CPU flags."""
    cpu = machine_info.get("cpu")
    cpu = {k: v for k, v in cpu.items() if k != "flags"} if isinstance(cpu, dict) else cpu
    return {**machine_info, "node": "", "cpu": cpu}


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
    try:
        for name, record in run.cases.items():
            _check_record(name, record)
        return _with_own_ledgers(run)
    except InputError as error:
        raise RunFileError(path, str(error), restore) from error


def _check_record(name: str, record: Record) -> None:
    if name != record.case.id:
        msg = f"case {name!r} holds the record of {record.case.id!r}"
        raise InputError(msg)
    check_finite(record.metrics, name)
    check_consistent(record, name)


def _is_moment(text: str) -> bool:
    try:
        return dt.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


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
