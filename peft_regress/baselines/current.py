"""What judges each case now, as all entries of a storage say together; `current.txt` shows it.

The folder of each machine has a `current.txt`: the cases that its entries judge, a number a line,
for `git diff`. It follows from the entries and is written after them, before the name of the newest
one. Whoever reads a storage reads all of its entries, and checks that the files say the same.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET

from peft_regress.baselines import storage
from peft_regress.baselines.storage import Link, Names, Newest, read_entries_of
from peft_regress.errors import RunFileError
from peft_regress.files import read_bytes, write_atomic
from peft_regress.gate.changes import next_origins
from peft_regress.gate.verdicts import Confirmation, Observation, observations_of
from peft_regress.metrics import metric_order
from peft_regress.runs.run_file import RunFile
from peft_regress.runs.schema import Acceptance, Record, digest_of
from peft_regress.text import printable

CURRENT: Final = "current.txt"

_HEAD: Final = "# What judges each case now, from the entries: see `peft-regress accept --renew`.\n"
_SHOWN: Final = frozenset({"exact", "bytes", "accuracy", "score"})
"""The kinds of metrics: fingerprints are long lists, times and information judge nothing."""


# --- what all entries say -------------------------------------------------------------------------


@dataclass(kw_only=True)
class Contents:
    """The entries of a storage in order, as far as they were added, and what follows from them."""

    links: list[Link] = field(default_factory=list)
    ledgers: Names = field(default_factory=dict)
    adapters: Names = field(default_factory=dict)
    adapter_of: dict[str, tuple[int, str]] = field(default_factory=dict)
    """For each case whose adapter an entry names: the newest such entry, and the digest. What was
    named last is last."""
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
            if isinstance(record.ledger, str):
                self.ledgers.setdefault(record.ledger, (index, name))
        for case, digest in accepted.adapters.items():
            self.adapters.setdefault(digest, (index, case))
            self.adapter_of.pop(case, None)
            self.adapter_of[case] = index, digest
        if accepted.role == "baseline":
            self._judge(entry, accepted)

    def _judge(self, entry: RunFile, accepted: Acceptance) -> None:
        """Let an entry judge its cases from now on."""
        for name in accepted.retired:
            self.judges.pop(name, None)
        for name, new in observations_of(entry.run, entry.path.stem).items():
            old = self.judges.get(name)
            origins = next_origins(
                {} if old is None else old.drift_origins,
                None if old is None else (old.run_name, old.record),
                (new.run_name, new.record),
            )
            curves = {**({} if old is None else old.curves), **new.curves}
            self.judges[name] = dataclasses.replace(new, drift_origins=origins, curves=curves)
        by = Confirmation(entry=entry.path.stem, environment=entry.run.environment)
        for name in accepted.repeats:
            self.judges[name] = dataclasses.replace(self.judges[name], confirmed=by)


def read_contents(root: Path, *, current: bool = True, without: Collection[Path] = ()) -> Contents:
    """Read all entries of a storage, but some, and check that nothing is missing.

    current: whether to check `current.txt` too. without: the newest entries; then nothing else is
    checked. Raises `RunFileError` for an entry that cannot be trusted, and where an entry, or a
    part that one names, is missing.
    """

    def read(paths: Sequence[Path]) -> Contents:
        contents = Contents()
        for entry in read_entries_of(path for path in paths if path not in without):
            contents.add(entry)
        if not without:
            check_whole(root, contents, current=current)
        return contents

    return storage.read_while_still(root, read)


def check_whole(root: Path, contents: Contents, *, current: bool = True) -> None:
    """Raise `RunFileError` if an entry or a part of one is missing, or `current.txt` is not so."""
    storage.check_order(root, contents.links)
    storage.check_parts(root, contents.links, ledgers=contents.ledgers, adapters=contents.adapters)
    if current:
        _check_current(root, contents)


# --- current.txt ----------------------------------------------------------------------------------


def current_texts(contents: Contents) -> dict[str, str]:
    """Return the text of each machine's folder: the cases that its entries judge."""
    links = {link.stem: link for link in contents.links}
    lines: dict[str, list[str]] = {link.folder: [] for link in contents.links}
    named: dict[str, set[str]] = {folder: set() for folder in lines}
    for name, judging in sorted(contents.judges.items()):
        folder = links[judging.run_name].folder
        _, adapter = contents.adapter_of.get(name, (0, ""))
        about = list(_standing(judging, adapter))
        named[folder] |= {line.split()[1] for line in about} & links.keys()  # no adapter
        facts = [*about, *_facts(judging.record)]
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
    # Older entries, with curves of other kinds of machine.
    for entry in sorted({one.run_name for one in judging.curves.values()} - {judging.run_name}):
        yield f"curve_of {entry}"
    origins = {name: one.entry for name, one in judging.drift_origins.items()}
    for entry in sorted(set(origins.values())):
        since = sorted((name for name, one in origins.items() if one == entry), key=metric_order)
        yield f"drift_since {entry} {shlex.join(since)}"
    if adapter:
        yield f"stored_adapter {adapter}"


def _facts(record: Record) -> Iterator[str]:
    if record.status != "ok":
        yield f"status {record.status_text}"
    for name in sorted(record.metrics, key=metric_order):
        metric = record.metrics[name]
        if metric.kind in _SHOWN:
            yield f"{name} {metric.value!r} {metric.unit}"
    for name, holds in sorted(record.invariants.items()):
        if holds is False:
            yield f"invariant {name} false"
    if record.budget is not UNSET:
        for name, limit in msgspec.to_builtins(record.budget).items():
            yield f"budget {name} {limit}"


def _newest(contents: Contents, texts: Mapping[str, str]) -> Newest:
    """Return what `newest` says of a storage that is not empty."""
    last = contents.links[-1]
    return Newest(
        entry=last.name,
        digest=last.digest,
        names=storage.digest_of_names(link.name for link in contents.links),
        current={folder: digest_of(text.encode()) for folder, text in sorted(texts.items())},
    )


def _check_current(root: Path, contents: Contents) -> None:
    """Raise `RunFileError` for a file that does not say what the entries say."""
    newest = storage.read_newest(root)
    if newest is None or not contents.links or newest.digest != contents.links[-1].digest:
        return  # an accept has not ended
    texts = current_texts(contents)
    for folder, text in texts.items():
        if _text_of(root, folder) != text.encode():
            raise _not_so(root, root / folder / CURRENT)
    if newest != _newest(contents, texts):
        raise _not_so(root, storage.newest_file(root))


def _text_of(root: Path, folder: str) -> bytes:
    """Return the content of a `current.txt`; empty without one."""
    try:
        return read_bytes(root / folder / CURRENT)
    except OSError:
        return b""


def _not_so(root: Path, path: Path) -> RunFileError:
    command = f"peft-regress accept --renew --baselines {shlex.quote(str(root))}"
    problem = "is not what the entries say: it was edited or removed, or is older than they are"
    return RunFileError(path, problem, f"Write it anew with `{command}`.")


def write_current(root: Path, contents: Contents) -> list[Path]:
    """Write what follows from the entries, the name of the newest last. Raises `InputError`.

    Return the files that were not so already.
    """
    written = []
    texts = current_texts(contents)
    for folder, text in texts.items():
        path = root / folder / CURRENT
        if _text_of(root, folder) != text.encode():
            write_atomic(path, text.encode())
            written.append(path)
    if storage.write_newest(root, _newest(contents, texts)):
        written.append(storage.newest_file(root))
    return written
