"""What judges each case now, as all entries of a storage say together; `current.txt` shows it.

The folder of each machine has a `current.txt` for `git diff`: all that judges its cases, a line
each. It follows from the entries and is written after them, before the name of the newest one.
Whoever reads a storage reads all of its entries, and checks that the files say the same.
"""

import dataclasses
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import UNSET

from peft_regress.baselines import storage
from peft_regress.baselines.storage import Link, Newest, read_entries_of, read_while_still
from peft_regress.errors import RunFileError
from peft_regress.files import is_file, is_folder, read_bytes, write_atomic
from peft_regress.gate.changes import is_shown_only, next_origins
from peft_regress.gate.verdicts import Confirmation, Observation, observations_of
from peft_regress.metrics import METRICS, metric_order
from peft_regress.runs.ledger_files import ledger_file
from peft_regress.runs.run_file import RunFile
from peft_regress.runs.schema import Acceptance, Record, canonical_digest, canonical_json, digest_of
from peft_regress.text import count_of, printable

CURRENT: Final = "current.txt"

_HEAD: Final = "# What judges each case now, from the entries: see `peft-regress accept --renew`.\n"
_LONGEST: Final = 60
"""A value with more characters is shown by its digest."""
_OTHERS: Final = (
    *("numerics", "profiled_on", "own_code", "batch", "test_items"),
    *("inputs", "rates", "nearby_losses", "referee"),
)
"""The fields of a record whose lines have no form of their own."""


@dataclass(kw_only=True)
class Contents:
    """The entries of a storage in order, as far as they were added, and what follows from them."""

    links: list[Link] = field(default_factory=list)
    parts: dict[str, tuple[str, Path, int]] = field(default_factory=dict)
    """By the digest of a ledger or adapter: what to say without it, its place, its first entry."""
    adapter_of: dict[str, str] = field(default_factory=dict)
    """For each case the digest of its adapter, in the order in which they were named last."""
    own: set[str] = field(default_factory=set)
    """The cases that are a user's own."""
    judges: dict[str, Observation] = field(default_factory=dict)
    """For each expected case what judges it: of its newest entry of role `baseline`, without
    ledger, with the older entries that its drift counts from."""

    def add(self, entry: RunFile) -> None:
        """Add the next entry."""
        accepted, index = storage.acceptance_of(entry), len(self.links)
        self.links.append(Link.of(entry))
        for name, record in entry.run.cases.items():
            if record.is_own:
                self.own.add(name)
            if isinstance(digest := record.ledger, str) and digest not in self.parts:
                place = ledger_file(Path("ledgers"), digest)
                self.parts[digest] = f"{name}: its ledger {place} is missing", place, index
        for case, digest in accepted.adapters.items():
            place = storage.adapter_folder(Path(), digest)
            self.parts.setdefault(digest, (f"{case}: its adapter {place} is missing", place, index))
            self.adapter_of.pop(case, None)
            self.adapter_of[case] = digest
        if accepted.role == "baseline":
            self._judge(entry, accepted)

    def _judge(self, entry: RunFile, accepted: Acceptance) -> None:
        for name in accepted.retired:
            self.judges.pop(name, None)
        for name, new in observations_of(entry.run, entry.path.stem).items():
            old = self.judges.get(name)
            before = None if old is None else (old.run_name, old.record)
            older = {} if old is None else old.drift_origins
            origins = next_origins(older, before, (new.run_name, new.record))
            self.judges[name] = dataclasses.replace(new, drift_origins=origins)
        by = Confirmation(entry=entry.path.stem, environment=entry.run.environment)
        for name in accepted.repeats:
            self.judges[name] = dataclasses.replace(self.judges[name], confirmed=by)


def read_contents(
    root: Path,
    *,
    current: bool = True,
    without: Collection[Path] = (),
    see: Callable[[RunFile, Contents], RunFile] = lambda entry, _: entry,
) -> Contents:
    """Read all entries of a storage, but some, and check that nothing is missing.

    current: whether to check `current.txt` too. without: the newest entries; then nothing else is
    checked. see: is called with each entry and what is before it, and returns what to add.

    Raises `RunFileError` for an entry that cannot be trusted, and where an entry, or a part that
    one names, is missing.
    """

    def read(root: Path, paths: Sequence[Path]) -> Contents:
        contents = Contents()
        for entry in read_entries_of(path for path in paths if path not in without):
            contents.add(see(entry, contents))
        if not without:
            storage.check_order(root, contents.links)
            for problem, place, index in contents.parts.values():
                if not (is_file(root / place) or is_folder(root / place)):
                    raise RunFileError(contents.links[index].path(root), problem)
            if current:
                _check_current(root, contents)
        return contents

    return read_while_still(root, read)


def current_texts(contents: Contents) -> dict[str, str]:
    """Return the text of each machine's folder: the cases that its entries judge."""
    links = {link.stem: link for link in contents.links}
    lines: dict[str, list[str]] = {link.folder: [] for link in contents.links}
    named: dict[str, set[str]] = {folder: set() for folder in lines}
    for name, judging in sorted(contents.judges.items()):
        folder = links[judging.run_name].folder
        about = list(_standing(judging, contents.adapter_of.get(name, "")))
        named[folder] |= {line.split()[1] for line in about} & links.keys()  # no adapter
        facts = [*about, *_facts(judging)]
        lines[folder] += [f"{printable(f'{name} {fact}')}\n" for fact in facts]
    return {
        folder: _HEAD
        + "".join(f"# {stem} {links[stem].digest}\n" for stem in sorted(named[folder]))
        + "".join(found)
        for folder, found in lines.items()
    }


def _standing(judging: Observation, adapter: str) -> Iterator[str]:
    """Yield the lines about entries. adapter: the digest of the stored one; empty without one."""
    yield f"judged_by {judging.run_name}"
    if judging.confirmed:
        yield f"confirmed_by {judging.confirmed.entry}"
    origins = {name: one.entry for name, one in judging.drift_origins.items()}
    for entry in sorted(set(origins.values())):
        since = sorted((name for name, one in origins.items() if one == entry), key=metric_order)
        yield f"drift_since {entry} {shlex.join(since)}"
    if adapter:
        yield f"stored_adapter {adapter}"


def _facts(judging: Observation) -> Iterator[str]:
    """Yield the lines about what was measured: all that judges."""
    record = judging.record
    yield f"definition {_start(record.definition)}"
    if record.settings is not UNSET:
        yield f"settings {shlex.join(f'{name}={value}' for name, value in record.settings.items())}"
    if record.status != "ok":
        yield f"status {record.long_status_text}"
    yield from _metrics(record)
    yield from _invariants(record)
    yield from _training(judging)
    if record.budget is not UNSET:
        for name, limit in msgspec.to_builtins(record.budget).items():
            yield f"budget {name} {limit}"
    for name, own in sorted(record.own_bounds.items()):
        yield f"bound {name} {own.bound!r} {own.reason}"


def _metrics(record: Record) -> Iterator[str]:
    for name in sorted(record.metrics, key=metric_order):
        metric = record.metrics[name]
        if not is_shown_only(metric):
            words = [name, repr(metric.value), metric.unit]
            words += [] if metric.spec == METRICS.get(name) else [metric.direction, metric.kind]
            words += [] if metric.samples is None else [_digest(metric.samples)]
            yield " ".join(words)


def _invariants(record: Record) -> Iterator[str]:
    """Yield a line each: which hold, which fail and how, and which do not apply."""
    defects = {} if record.defects is UNSET else record.defects
    for word, answer in (("holds", True), ("fails", False), ("does_not_apply", None)):
        names = [name for name, holds in sorted(record.invariants.items()) if holds is answer]
        if answer is False:
            names = [f"{one}={_digest((defects.get(one), record.note_on(one)))}" for one in names]
        if names:
            yield f"{word} {' '.join(names)}"


def _training(judging: Observation) -> Iterator[str]:
    """Yield the lines about what trains, from what and how."""
    record = judging.record
    if record.trained is not UNSET:
        yield f"trained {count_of(len(record.trained), 'tensor')} {_digest(record.trained)}"
    if record.curve is not UNSET:
        yield f"curve {_digest(record.curve)} on machine {_start(judging.machine.digest)}"
    if record.script is not UNSET:
        yield f"optimizers {' '.join(record.script.optimizers)}"
        yield f"autocast {record.script.autocast or 'off'}"
        yield f"batches {_short(record.script.batches)}"
    for name in _OTHERS:
        value = getattr(record, name)
        if value is not UNSET:
            yield f"{name} {_short(value)}"


def _short(value: Any) -> str:
    """Return a value as it is, or if it is long, the start of its digest."""
    text = value if isinstance(value, str) else canonical_json(value).decode()
    return text if len(text) <= _LONGEST else _digest(value)


def _digest(value: Any) -> str:
    return _start(canonical_digest(value))


def _start(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _files(root: Path, contents: Contents) -> dict[Path, bytes]:
    """Return the files that follow from the entries of a storage, the name of the newest last."""
    texts = {folder: text.encode() for folder, text in sorted(current_texts(contents).items())}
    if not contents.links:
        return {}
    last = contents.links[-1]
    newest = Newest(
        entry=last.name,
        digest=last.digest,
        names=digest_of("\n".join(link.name for link in contents.links).encode()),
        current={folder: digest_of(text) for folder, text in texts.items()},
    )
    files = {root / folder / CURRENT: text for folder, text in texts.items()}
    files[storage.newest_file(root)] = msgspec.json.format(msgspec.json.encode(newest)) + b"\n"
    return files


def _check_current(root: Path, contents: Contents) -> None:
    """Raise `RunFileError` for a file that does not say what the entries say."""
    states = [_files(root, contents)]
    newest = storage.read_newest(root)
    last = contents.links[-1:]
    if last and (newest.digest if newest else "") == last[0].accepted.predecessor:
        # An accept has not ended: a file may still say what all entries but the last say.
        states.append(_files(root, read_contents(root, without=[last[0].path(root)])))
    for path in states[0]:
        if _content_of(path) not in [files.get(path, b"") for files in states]:
            command = f"peft-regress accept --renew --baselines {shlex.quote(str(root))}"
            problem = (
                "is not what the entries say: it was edited or removed, or is older than they are"
            )
            raise RunFileError(path, problem, f"Write it anew with `{command}`.")


def _content_of(path: Path) -> bytes:
    """Return the content of a file; empty without one. Raises `RunFileError` for a FIFO."""
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise RunFileError(path, problem, "Remove it, and run `accept --renew`.") from error


def write_current(root: Path, contents: Contents) -> list[Path]:
    """Write what follows from the entries, and return what was not so. Raises `InputError`."""
    files = _files(root, contents)
    written = [path for path, content in files.items() if _content_of(path) != content]
    for path in written:
        write_atomic(path, files[path])
    return written
