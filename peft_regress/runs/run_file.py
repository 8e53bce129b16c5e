"""Read, check and write one run file.

A run file is a pytest-benchmark JSON with an additional object `peft_regress`. Reading checks
everything that the gate relies on.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from peft_regress.cases import Case, in_words
from peft_regress.errors import InputError, RunFileError
from peft_regress.files import read_bytes, write_atomic
from peft_regress.gc_pause import paused_gc
from peft_regress.runs.json_layout import dump_json
from peft_regress.runs.ledgers import (
    ledger_folder,
    read_ledger,
    with_digests,
    with_ledgers,
)
from peft_regress.runs.schema import (
    READABLE_SCHEMAS,
    SCHEMA_VERSION,
    Ledger,
    Record,
    Run,
    canonical_json,
    check_acceptance,
    check_consistent,
    check_finite,
    content_digest,
    digest_of,
)
from peft_regress.runs.strict_json import json_path, load_json, path_of_bad_text
from peft_regress.text import clean

_PLACE = re.compile(r"(.*) - at `(key` in `)?\$(.*)`", re.DOTALL)
_CONFLICT = re.compile(rb"^(<{7}|={7}|>{7}|\|{7})", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A run file as read: the checked run, and pytest-benchmark's own part unchanged."""

    path: Path
    run: Run
    document: dict[str, Any]


def read_run_file(path: Path, *, ledgers: bool = True) -> RunFile:
    """Read and check one run file; skip its ledgers, nine tenths of it, with `ledgers=False`.

    Raises `RunFileError` if the file does not exist or cannot be trusted.
    """
    return parse_run_file(path, read_content(path), ledgers=ledgers)


def read_content(path: Path) -> bytes:
    """Return the bytes of a run file, unchecked. Raises `RunFileError` if it cannot be read."""
    try:
        return read_bytes(path)
    except FileNotFoundError:
        remedy = f"Make one with `pytest SUITE --regress-save {shlex.quote(str(path))}`."
        raise RunFileError(path, "no such run file", remedy) from None
    except OSError as error:
        raise RunFileError(path, f"cannot be read ({error.strerror})", "Check the path.") from error


def parse_run_file(path: Path, content: bytes, *, ledgers: bool = True) -> RunFile:
    """Parse and check the content of a run file, as `read_run_file` does."""
    found = _read_as_written(path, content, ledgers=ledgers)
    if found is None:
        # The file was edited or is wrong: find out what is wrong.
        document = _parse(path, content)
        run = _check(path, document.pop("peft_regress"), ledgers=ledgers)
        found = RunFile(path=path, run=run, document=document)
    return with_stored_ledgers(found) if ledgers else found


def with_stored_ledgers(entry: RunFile, names: Collection[str] | None = None) -> RunFile:
    """Return an entry with those ledgers that its storage keeps: of all cases, or of some.

    Raises `RunFileError` for one that is absent or altered.
    """
    cases = dict(entry.run.cases)
    read: dict[str, Ledger] = {}
    for name in cases if names is None else names:
        digest = cases[name].ledger
        if isinstance(digest, Ledger):
            continue
        try:
            if digest not in read:
                read[digest] = read_ledger(ledger_folder(entry.path), digest)
        except InputError as error:
            remedy = (
                f"Restore it with `git checkout -- {shlex.quote(str(ledger_folder(entry.path)))}`; "
                "an entry is whole only inside its storage."
            )
            raise RunFileError(entry.path, f"{name}: its ledger {error}", remedy) from error
        cases[name] = msgspec.structs.replace(cases[name], ledger=read[digest])
    if not read:
        return entry
    return replace(entry, run=msgspec.structs.replace(entry.run, cases=cases))


def _read_as_written(path: Path, content: bytes, *, ledgers: bool) -> RunFile | None:
    """Read a file that is as this module wrote it, by its digest; return None if in doubt.

    Several times as fast as the reader that can tell what is wrong.
    """
    if rb"\u0022" in content:
        return None  # an escaped quote would spoil the count below
    try:
        with paused_gc():
            document = msgspec.json.decode(content)
            ours = document.pop("peft_regress")
            digest = ours.pop("content_digest")
            kept = ours.pop("ledgers", None)
            canonical = canonical_json(ours)
            quotes = canonical.count(b'"')
            is_as_written = digest_of(canonical) == digest
            del canonical  # as large as the file
            quotes += sum(canonical_json(part).count(b'"') for part in (document, kept or {}))
            # The decoder drops the first of two equal keys, and with it at least two quotes. Six
            # quotes belong to two of the keys taken out and to the digest, two to the third key.
            has_all_keys = content.count(b'"') == quotes + (6 if kept is None else 8)
            is_known = ours["schema_version"] in READABLE_SCHEMAS and not _misfits(document)
            if not (is_as_written and has_all_keys and is_known):
                return None
            if not ledgers:
                for record in ours["cases"].values():
                    if isinstance(record["ledger"], dict):
                        record["ledger"] = {}
            run = msgspec.convert({**ours, "content_digest": digest}, Run)
            for name, record in run.cases.items():
                check_record(name, record)
            run = with_ledgers(run, msgspec.convert(kept or {}, dict[str, Ledger]), use=ledgers)
            check_acceptance(run)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InputError):
        return None
    return RunFile(path=path, run=run, document=document)


def run_document(run: Run, document: dict[str, Any], *, ledgers: bool = True) -> dict[str, Any]:
    """Join pytest-benchmark's part and a run, with the content digest set.

    ledgers: whether they stand in the file, or only their digests. Raises `InputError` for metrics
    that could not be read again.
    """
    return _joined(_as_read(run), document, ledgers=ledgers)


def _as_read(run: Run) -> Run:
    """Return a run with digests as a file of it is read."""
    for name, record in run.cases.items():
        check_finite(record.metrics, name)
    run = with_digests(run)
    kept = run.ledgers
    # As a reader sees it (a sample 1 is read as 1.0), or the digest would not fit the file.
    run = msgspec.convert(msgspec.to_builtins(msgspec.structs.replace(run, ledgers={})), Run)
    run = msgspec.structs.replace(run, schema_version=max(run.schema_version, SCHEMA_VERSION))
    return msgspec.structs.replace(run, content_digest=content_digest(run), ledgers=kept)


def _joined(run: Run, document: dict[str, Any], *, ledgers: bool) -> dict[str, Any]:
    run = run if ledgers else msgspec.structs.replace(run, ledgers={})
    return {**document, "peft_regress": msgspec.to_builtins(run)}


def write_run_file(path: Path, run: Run, document: dict[str, Any], *, ledgers: bool = True) -> Run:
    """Write a run file atomically, and return the run as a reader without ledgers will see it.

    Raises `InputError` for values that JSON cannot represent.
    """
    try:
        run = _as_read(run)
        content = dump_json(_joined(run, document, ledgers=ledgers))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be written ({in_words(str(error))})") from error
    write_atomic(path, content.encode())
    return msgspec.structs.replace(run, ledgers={})


def without_host(machine_info: dict[str, Any]) -> dict[str, Any]:
    """Return pytest-benchmark's machine_info without host name and CPU flags."""
    cpu = machine_info.get("cpu")
    cpu = {k: v for k, v in cpu.items() if k != "flags"} if isinstance(cpu, dict) else cpu
    return {**machine_info, "node": "", "cpu": cpu}


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    restore = _restore(path)
    conflict = _CONFLICT.search(content)
    if conflict is not None:
        line = content.count(b"\n", 0, conflict.start()) + 1
        raise RunFileError(
            path,
            f"has git conflict markers (line {line}), and runs do not merge line by line",
            f"Take one side whole with `git checkout --ours -- {shlex.quote(str(path))}` (or "
            "--theirs), then `peft-regress accept` a new run if the other side still counts.",
        )
    try:
        document = load_json(content)
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
    for problem in _misfits(document):
        raise RunFileError(path, problem, restore)
    _check_schema(path, ours.get("schema_version"))
    return document


def _misfits(document: dict[str, Any]) -> list[str]:
    """Return what pytest-benchmark would refuse in its own part."""
    types = (("benchmarks", list), ("machine_info", dict))
    return [
        f"{key!r} is not a {cls.__name__}, as pytest-benchmark writes it"
        for key, cls in types
        if not isinstance(document.get(key, cls()), cls)
    ]


def _check_schema(path: Path, version: object) -> None:
    if version is None:
        raise RunFileError(path, "has no schema_version", "Make the run file again.")
    shown = f"has schema_version {clean(repr(version), longest=40)}"
    if not isinstance(version, int) or isinstance(version, bool):
        raise RunFileError(path, shown, "Make the run file again.")
    if version > SCHEMA_VERSION:
        raise RunFileError(
            path,
            f"{shown}, newer than {SCHEMA_VERSION}, which this version reads",
            "Upgrade with `pip install -U peft-regress`.",
        )
    if version not in READABLE_SCHEMAS:
        raise RunFileError(
            path,
            f"{shown}, older than {READABLE_SCHEMAS[0]}, the first that this version reads",
            "Make the run again and `peft-regress accept` it.",
        )


def _check(path: Path, ours: dict[str, Any], *, ledgers: bool) -> Run:
    restore = _restore(path)
    try:
        run = msgspec.convert(ours, Run)
        digest = content_digest(run)
    except UnicodeEncodeError as error:
        problem = f"has text that is not Unicode, at {path_of_bad_text({'peft_regress': ours})}"
        raise RunFileError(path, problem, restore) from error
    except msgspec.ValidationError as error:
        problem = f"does not fit the schema: {_with_path(error, ours)}"
        raise RunFileError(path, problem, restore) from error
    try:
        # Before the digest, which shows only that something was altered, not where.
        for name, record in run.cases.items():
            check_record(name, record)
        whole = with_ledgers(msgspec.structs.replace(run, ledgers={}), run.ledgers, use=ledgers)
        check_acceptance(run)
    except InputError as error:
        raise RunFileError(path, str(error), restore) from error
    if run.content_digest != digest:
        found = clean(run.content_digest) or "absent"
        raise RunFileError(
            path,
            f"was altered after it was written (content_digest {found}, content {digest})",
            f"Only `peft-regress accept` may change numbers. {restore}",
        )
    return whole


def _restore(path: Path) -> str:
    return f"Restore it with `git checkout -- {shlex.quote(str(path))}`, or make the run again."


def _with_path(error: msgspec.ValidationError, ours: dict[str, Any]) -> str:
    """Return msgspec's message with the keys that it replaces by `[...]`.

    Each is found by trial: the one item of that mapping that alone gives this error.
    """
    place = _PLACE.fullmatch(str(error))
    if place is None:
        return in_words(str(error))
    what, is_of_key, path = place.groups()
    keys: list[str | int] = []
    container: Any = ours
    for name, index, any_key in re.findall(r"\.(\w+)|\[(\d+)\]|(\[\.{3}\])", path):
        key = _wrong_key(container, ours, str(error)) if any_key else name or int(index)
        container = container[key]
        keys.append(key)
    if is_of_key:
        keys.append(_wrong_key(container, ours, str(error)))
    return f"{in_words(what)}, at {json_path(('peft_regress', *keys))}"


def _wrong_key(container: dict[str, Any], ours: dict[str, Any], message: str) -> str:
    """Return the key of the wrong item, which stays as the only item of its mapping."""
    items = dict(container)
    for key, item in items.items():
        container.clear()
        container[key] = item
        try:
            msgspec.convert(ours, Run)
        except msgspec.ValidationError as error:
            if str(error) == message:
                break
    return key


def check_record(name: str, record: Record) -> None:
    """Raise `InputError` for a record of another case, or one that contradicts itself."""
    # Also of equal ids: method `lora-r4` without a rank is not method `lora` of rank 4.
    if Case.parse(name) != record.case:
        raise InputError(f"case {name!r} has the record of {record.case.id!r}")
    check_finite(record.metrics, name)
    check_consistent(record, name)
