"""Read, check and write a run: one file, or a folder with the files of its shards.

A run file is a pytest-benchmark JSON with an additional object `peft_regress`. Reading checks
everything that the gate relies on.
"""

import dataclasses
import functools
import io
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from peft_regress.cases import Case, in_words
from peft_regress.errors import InputError, RunFileError
from peft_regress.files import is_folder, read_bytes, write_atomic
from peft_regress.gc_pause import paused_gc
from peft_regress.runs import schema
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.ledger_files import read_ledger, with_digests, with_ledgers
from peft_regress.runs.schema import Ledger, Record, Run, Selection
from peft_regress.text import clean, redacted

_MOST_LEDGERS: Final = 32
CONFLICT = re.compile(rb"^(<{7}|={7}|>{7}|\|{7})", re.MULTILINE)
"""A line that git writes where two branches conflict."""

_LINE_WIDTH: Final = 140
_DEEPEST: Final = 6  # a number's samples; of `ledgers`, `curve` and `rates` one less

_on_one_line = json.JSONEncoder(allow_nan=False).encode


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A run file as read: the checked run, and pytest-benchmark's own part unchanged."""

    path: Path
    run: Run
    document: dict[str, Any]


def read_run(path: Path) -> RunFile:
    """Read a run file, or the union of the run files of a folder (the shards of one run).

    Raises `InputError`, also if two files of the folder have one case, or other environments.
    """
    if not is_folder(path):
        return read_run_file(path)
    files = [read_run_file(file) for file in sorted(path.glob("*.json"))]
    if not files:
        raise InputError(f"{path}: the folder has no run file (*.json)")
    document = dict(files[0].document)
    document["benchmarks"] = [
        entry for file in files for entry in file.document.get("benchmarks", ())
    ]
    return RunFile(path=path, run=_union(path, files), document=document)


def read_run_file(path: Path, *, ledgers: bool = True) -> RunFile:
    """Read and check one run file; `ledgers=False` leaves out its ledgers, most of its memory.

    Raises `RunFileError` if the file does not exist or cannot be trusted.
    """
    with paused_gc():
        document, ours = _parse(path)
        run = _check(path, ours, ledgers=ledgers)
    if ledgers:
        cases = with_ledgers_of(run.cases, lambda _: path)
        run = msgspec.structs.replace(run, cases=cases)
    return RunFile(path=path, run=run, document=document)


def with_ledgers_of(
    records: Mapping[str, Record], entry_of: Callable[[str], Path]
) -> dict[str, Record]:
    """Return records with the ledgers that a storage keeps of them.

    entry_of: the entry with a case's record. Raises `RunFileError` for an absent or altered ledger.
    """
    read = functools.cache(read_ledger)
    return {
        name: msgspec.structs.replace(
            record, ledger=_ledger_of(name, record.ledger, entry_of(name), read)
        )
        if isinstance(record.ledger, str)
        else record
        for name, record in records.items()
    }


def with_unread_ledgers(file: RunFile) -> RunFile:
    """Return an entry of a storage whose records read their ledgers when they are asked for."""
    # What asks for a ledger soon asks for it again.
    read = functools.lru_cache(maxsize=_MOST_LEDGERS)(read_ledger)
    cases = dict(file.run.cases)
    for name, record in file.run.cases.items():
        if isinstance(record.ledger, str):
            unread = functools.partial(_ledger_of, name, record.ledger, file.path, read)
            ledger = schema.UnreadLedger(record.ledger, unread)
            cases[name] = msgspec.structs.replace(record, ledger=ledger)
    return dataclasses.replace(file, run=msgspec.structs.replace(file.run, cases=cases))


def _ledger_of(name: str, digest: str, entry: Path, read: Callable[[Path, str], Ledger]) -> Ledger:
    """Return the ledger of a record. Raises `RunFileError` for an absent or altered one."""
    folder = entry.parent.parent / "ledgers"
    try:
        return read(folder, digest)
    except InputError as error:
        remedy = (
            f"Restore it with `git checkout -- {shlex.quote(str(folder))}`; "
            "an entry is whole only inside its storage."
        )
        raise RunFileError(entry, f"{name}: its ledger {error}", remedy) from error


def write_run_file(path: Path, run: Run, document: dict[str, Any], *, ledgers: bool = True) -> Run:
    """Write a run file atomically, and return the run as a reader without ledgers will see it.

    ledgers: whether they stand in the file, or only their digests. Raises `InputError` for values
    that JSON cannot represent.
    """
    try:
        for name, record in run.cases.items():
            schema.check_finite(record.metrics, name)
        run = with_digests(run)
        # As a reader sees it (a sample 1 is read as 1.0), or the digest would not fit the file.
        bare = msgspec.convert(msgspec.to_builtins(msgspec.structs.replace(run, ledgers={})), Run)
        bare = msgspec.structs.replace(bare, content_digest=schema.content_digest(bare))
        whole = msgspec.structs.replace(bare, ledgers=run.ledgers) if ledgers else bare
        ours = msgspec.to_builtins(whole)
        content = dump_json({**_public(document), "peft_regress": ours})
    except ValueError as error:
        raise InputError(f"{path}: cannot be written ({in_words(str(error))})") from error
    write_atomic(path, content.encode())
    return bare


def _public(document: dict[str, Any]) -> dict[str, Any]:
    """Return pytest-benchmark's part without host name, CPU flags, and the folder git failed in."""
    public, commit = dict(document), document.get("commit_info")
    if machine := document.get("machine_info"):
        cpu = machine.get("cpu")
        cpu = {k: v for k, v in cpu.items() if k != "flags"} if isinstance(cpu, dict) else cpu
        public["machine_info"] = {**machine, "node": "", "cpu": cpu}
    if isinstance(commit, dict) and "error" in commit:
        public["commit_info"] = {**commit, "error": redacted(str(commit["error"]))}
    return public


def dump_json(value: Any) -> str:
    """Format JSON for review: a value that fits on a line, or is nested deep, is one line.

    So a metric is one line of a diff, as is a ledger's module. Raises `ValueError` for NaN.
    """
    text = io.StringIO()
    _add(text.write, value, 0, _DEEPEST)
    text.write("\n")
    return text.getvalue()


def _add(write: Callable[[str], object], value: Any, indent: int, deepest: int) -> None:
    line = _on_one_line(value)
    is_line = indent >= deepest or not isinstance(value, dict | list)
    if is_line or len(line) + indent <= _LINE_WIDTH:
        write(line)
        return
    inner = "\n" + " " * (indent + 1)
    is_mapping = isinstance(value, dict)
    write("{" if is_mapping else "[")
    for position, item in enumerate(value.items() if is_mapping else value):
        gap = "," + inner if position else inner
        if is_mapping:
            write(f"{gap}{_on_one_line(str(item[0]))}: ")
            is_flat = item[0] in {"ledgers", "curve", "rates"}
            _add(write, item[1], indent + 1, deepest - is_flat)
        else:
            write(gap)
            _add(write, item, indent + 1, deepest)
    write("\n" + " " * indent + ("}" if is_mapping else "]"))


def _parse(path: Path) -> tuple[dict[str, Any], msgspec.Raw]:
    """Return the document, and in it the object `peft_regress`, if it is one of this schema."""
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        remedy = f"Make one with `pytest SUITE --regress-save {shlex.quote(str(path))}`."
        raise RunFileError(path, "no such run file", remedy) from None
    except OSError as error:
        raise RunFileError(path, f"cannot be read ({error.strerror})", "Check the path.") from error
    try:
        parts = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        ours = parts.pop("peft_regress", msgspec.Raw(b"null"))
        document = {key: msgspec.json.decode(part) for key, part in parts.items()}
    except (ValueError, RecursionError) as error:
        if CONFLICT.search(content) is None:
            raise RunFileError(path, f"is not valid JSON ({error})", _restore(path)) from error
        raise RunFileError(
            path,
            "has git conflict markers, and runs do not merge line by line",
            f"Take the other branch's with `git checkout --theirs -- {shlex.quote(str(path))}`; of "
            "an entry the next message says how to keep both.",
        ) from error
    try:
        head = msgspec.json.decode(ours, type=dict[str, msgspec.Raw])
        version = msgspec.json.decode(head.get("schema_version", b"null"))
    except (ValueError, RecursionError) as error:
        problem = "has no object 'peft_regress', so it is not a run file of this tool"
        remedy = "A plain pytest-benchmark file cannot be gated; use `--regress-save PATH`."
        raise RunFileError(path, problem, remedy) from error
    for key, kind in (("benchmarks", list), ("machine_info", dict)):
        if not isinstance(document.get(key, kind()), kind):
            raise RunFileError(path, f"{key!r} is not a {kind.__name__}", _restore(path))
    _check_schema(path, version)
    return document, ours


def _check_schema(path: Path, version: object) -> None:
    if version == schema.SCHEMA_VERSION:
        return
    shown = f"has schema_version {clean(repr(version), longest=40)}"
    problem = f"{shown}, older than {schema.SCHEMA_VERSION}, which this version reads"
    remedy = "Make the run again and `peft-regress accept` it."
    if isinstance(version, int) and version > schema.SCHEMA_VERSION:
        problem = f"{shown}, newer than {schema.SCHEMA_VERSION}, which this version reads"
        remedy = "Upgrade with `pip install -U peft-regress`."
    raise RunFileError(path, problem, remedy)


def _check(path: Path, ours: msgspec.Raw, *, ledgers: bool) -> Run:
    restore = _restore(path)
    try:
        run = msgspec.json.decode(ours, type=Run)
        digest = schema.content_digest(run)
    except (ValueError, RecursionError) as error:
        problem = f"does not fit the schema: {in_words(str(error))}"
        raise RunFileError(path, problem, restore) from error
    try:
        # Before the digest, which shows only that something was altered, not where.
        for name, record in run.cases.items():
            check_record(name, record)
        bare = msgspec.structs.replace(run, ledgers={})
        whole = with_ledgers(bare, run.ledgers)  # checks them also if nobody uses them
        schema.check_acceptance(run)
    except InputError as error:
        raise RunFileError(path, str(error), restore) from error
    if run.content_digest != digest:
        found = clean(run.content_digest) or "absent"
        problem = f"was altered after it was written (content_digest {found}, content {digest})"
        remedy = f"Only `peft-regress accept` may change numbers. {restore}"
        raise RunFileError(path, problem, remedy)
    return whole if ledgers else bare


def _restore(path: Path) -> str:
    return f"Restore it with `git checkout -- {shlex.quote(str(path))}`, or make the run again."


def check_record(name: str, record: Record, definition: str | None = None) -> None:
    """Raise `InputError` for a record of another case or definition, or that contradicts itself."""
    # Also of equal ids: method `lora-r4` without a rank is not method `lora` of rank 4.
    if Case.parse(name) != record.case:
        raise InputError(f"case {name!r} has the record of {record.case.id!r}")
    if definition not in {None, record.definition}:
        raise InputError(f"{name}: definition {record.definition!r}, expected {definition!r}")
    schema.check_finite(record.metrics, name)
    schema.check_consistent(record, name)


def _union(folder: Path, files: list[RunFile]) -> Run:
    first = files[0].run
    environment = dict(first.environment)
    cases: dict[str, Record] = {}
    file_of: dict[str, str] = {}
    for file in files:
        for package, (one, other) in changed_packages(environment, file.run.environment).items():
            if one is not None and other is not None:
                pair = f"{files[0].path.name} and {file.path.name}"
                raise InputError(
                    f"{folder}: {pair} are not shards of one run: {package} is {one} in one, "
                    f"{other} in the other"
                )
        # The cases of one shard may import what those of another do not.
        environment |= file.run.environment
        for name in sorted(cases.keys() & file.run.cases.keys()):
            raise InputError(
                f"{folder}: case {name} is in {file_of[name]} and in {file.path.name}; move one of "
                "the files away"
            )
        cases |= file.run.cases
        file_of |= dict.fromkeys(file.run.cases, file.path.name)
    same_machine = all(file.run.machine == first.machine for file in files)
    mixed = msgspec.structs.replace(
        first.machine, digest=schema.MIXED_MACHINES, cpu="several machines"
    )
    return Run(
        schema_version=schema.SCHEMA_VERSION,
        environment=dict(sorted(environment.items())),
        machine=first.machine if same_machine else mixed,
        selection=_union_selection([file.run.selection for file in files], set(cases)),
        cases=dict(sorted(cases.items())),
        direct={name: digest for file in files for name, digest in file.run.direct.items()},
        metrics_known=sorted(frozenset.intersection(*(file.run.known for file in files))),
    )


def _union_selection(selections: list[Selection], present: set[str]) -> Selection:
    left_out = sorted({name for one in selections for name in one.not_selected} - present)
    narrowed = sorted({how for one in selections for how in one.narrowed_by})
    # Each shard is narrowed; together they are complete if nothing is left out. A run that is
    # incomplete without being narrowed was interrupted.
    complete = not left_out and all(
        one.complete
        or (one.narrowed_by and all(how.startswith("--regress-shard") for how in one.narrowed_by))
        for one in selections
    )
    return Selection(
        complete=complete, narrowed_by=[] if complete else narrowed, not_selected=left_out
    )
