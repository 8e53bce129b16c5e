"""What judges each case now, as all entries of a storage say together, and as `current.txt` does.

The folder of each machine has a `current.txt`: the cases that its entries judge, a number a line,
for `git diff`. It follows from the entries and is written after them, before the name of the newest
one, which holds its digest. So a reader that finds it so needs only the entries that it names:
those that judge, that have a curve of another kind of machine, that confirm, or that drift counts
from. Any other storage is read as a whole, which says what is wrong.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from peft_regress.baselines.storage import (
    Link,
    Names,
    Newest,
    acceptance_of,
    check_adapter,
    check_order,
    check_parts,
    digest_of_names,
    entry_name,
    newest_file,
    read_entries_of,
    read_newest,
    read_while_still,
    restore,
    write_newest,
)
from peft_regress.errors import RunFileError
from peft_regress.files import read_bytes, write_atomic
from peft_regress.gate.changes import next_origins
from peft_regress.gate.verdicts import Confirmation, Observation, Origin, observations_of
from peft_regress.metrics import metric_order
from peft_regress.runs.run_file import RunFile, with_stored_ledgers
from peft_regress.runs.schema import Acceptance, Record, digest_of
from peft_regress.text import printable

CURRENT: Final = "current.txt"

_HEAD: Final = "# What judges each case now, from the entries: see `peft-regress accept --renew`.\n"
_SHOWN: Final = frozenset({"exact", "bytes", "accuracy", "score"})
"""The kinds of metrics: fingerprints are long lists, times and information judge nothing."""
_ABOUT_ENTRIES: Final = frozenset(
    {"judged_by", "confirmed_by", "curve_of", "drift_since", "stored_adapter"}
)
"""What lines begin with that name entries."""


# --- what all entries say -------------------------------------------------------------------------


class Judge(NamedTuple):
    """What judges a case: its newest entry of role `baseline`."""

    entry: int
    """Its position among the entries."""
    observation: Observation
    """Without ledger; with the older entries that its drift counts from."""


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
    judges: dict[str, Judge] = field(default_factory=dict)
    """For each expected case what judges it."""

    def add(self, entry: RunFile) -> None:
        """Add the next entry."""
        accepted, index = acceptance_of(entry), len(self.links)
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
            self._judge(entry, accepted, index)

    def _judge(self, entry: RunFile, accepted: Acceptance, index: int) -> None:
        """Let an entry judge its cases from now on."""
        for name in accepted.retired:
            self.judges.pop(name, None)
        for name, new in observations_of(entry.run, entry.path.stem).items():
            known = self.judges.get(name)
            old = None if known is None else known.observation
            origins = next_origins(
                {} if old is None else old.drift_origins,
                None if old is None else (old.run_name, old.record),
                (new.run_name, new.record),
            )
            curves = {**({} if old is None else old.curves), **new.curves}
            judging = dataclasses.replace(new, drift_origins=origins, curves=curves)
            self.judges[name] = Judge(index, judging)
        for name in accepted.repeats:
            position, observation = self.judges[name]
            by = Confirmation(entry=entry.path.stem, environment=entry.run.environment)
            confirmed = dataclasses.replace(observation, confirmed=by)
            self.judges[name] = Judge(position, confirmed)

    @property
    def references(self) -> dict[str, Observation]:
        """What judges each expected case, by id, without ledgers."""
        return {name: judge.observation for name, judge in self.judges.items()}


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

    return read_while_still(root, read)


def check_whole(root: Path, contents: Contents, *, current: bool = True) -> None:
    """Raise `RunFileError` if an entry or a part of one is missing, or `current.txt` is not so.

    contents: all of the storage.
    """
    check_order(root, contents.links)
    check_parts(root, contents.links, ledgers=contents.ledgers, adapters=contents.adapters)
    if current:
        _check_current(root, contents)


# --- current.txt ----------------------------------------------------------------------------------


def current_texts(contents: Contents) -> dict[str, str]:
    """Return the text of each machine's folder: the cases that its entries judge."""
    digests = {link.stem: link.digest for link in contents.links}
    lines: dict[str, list[str]] = {link.folder: [] for link in contents.links}
    named: dict[str, set[str]] = {folder: set() for folder in lines}
    for name, judge in sorted(contents.judges.items()):
        folder = contents.links[judge.entry].folder
        _, adapter = contents.adapter_of.get(name, (0, ""))
        here = _Standing.of(judge.observation, adapter)
        named[folder] |= here.entries(drift=True)
        facts = [*here.facts(), *_facts(judge.observation.record)]
        lines[folder] += [f"{printable(f'{name} {fact}')}\n" for fact in facts]
    return {
        folder: _HEAD
        + "".join(f"# {stem} {digests[stem]}\n" for stem in sorted(named[folder]))
        + "".join(found)
        for folder, found in lines.items()
    }


class _Standing(NamedTuple):
    """Which entries count for a case."""

    judged_by: str
    confirmed_by: str
    """Empty if none does."""
    curves: tuple[str, ...]
    """Older entries, with curves of other kinds of machine."""
    origins: dict[str, str]
    """By metric the older entry that its drift counts from."""
    adapter: str
    """The digest of the stored adapter; empty without one."""

    @classmethod
    def of(cls, judging: Observation, adapter: str) -> _Standing:
        others = {one.run_name for one in judging.curves.values()} - {judging.run_name}
        return cls(
            judged_by=judging.run_name,
            confirmed_by=judging.confirmed.entry if judging.confirmed else "",
            curves=tuple(sorted(others)),
            origins={name: one.entry for name, one in judging.drift_origins.items()},
            adapter=adapter,
        )

    def entries(self, *, drift: bool) -> set[str]:
        """Return the entries to read."""
        found = {self.judged_by, *self.curves, *(self.origins.values() if drift else ())}
        return found | ({self.confirmed_by} if self.confirmed_by else set())

    def facts(self) -> Iterator[str]:
        """Yield the lines of `current.txt` about entries; `parse` reads them again."""
        yield f"judged_by {self.judged_by}"
        if self.confirmed_by:
            yield f"confirmed_by {self.confirmed_by}"
        for entry in self.curves:
            yield f"curve_of {entry}"
        for entry in sorted(set(self.origins.values())):
            since = [name for name, one in self.origins.items() if one == entry]
            yield f"drift_since {entry} {shlex.join(sorted(since, key=metric_order))}"
        if self.adapter:
            yield f"stored_adapter {self.adapter}"

    @classmethod
    def parse(cls, facts: Mapping[str, list[str]]) -> _Standing:
        """Return what the lines of a case say."""
        (judged_by,) = facts["judged_by"]
        since = (line.partition(" ") for line in facts.get("drift_since", ()))
        return cls(
            judged_by=judged_by,
            confirmed_by="".join(facts.get("confirmed_by", ())),
            curves=tuple(facts.get("curve_of", ())),
            origins={name: entry for entry, _, names in since for name in shlex.split(names)},
            adapter="".join(facts.get("stored_adapter", ())),
        )


def _facts(record: Record) -> Iterator[str]:
    if record.status != "ok":
        yield f"status {record.status_text}"
    for name in sorted(record.metrics, key=metric_order):
        metric = record.metrics[name]
        if metric.kind in _SHOWN:
            shown = repr(name) if name in _ABOUT_ENTRIES else name
            yield f"{shown} {metric.value!r} {metric.unit}"
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
        names=digest_of_names(link.name for link in contents.links),
        current={folder: digest_of(text.encode()) for folder, text in sorted(texts.items())},
    )


def _check_current(root: Path, contents: Contents) -> None:
    """Raise `RunFileError` for a file that does not say what the entries say."""
    newest = read_newest(root)
    if newest is None or not contents.links or newest.digest != contents.links[-1].digest:
        return  # an accept has not ended
    texts = current_texts(contents)
    for folder, text in texts.items():
        if _text_of(root, folder) != text.encode():
            raise _not_so(root, root / folder / CURRENT)
    if newest != _newest(contents, texts):
        raise _not_so(root, newest_file(root))


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
    if write_newest(root, _newest(contents, texts)):
        written.append(newest_file(root))
    return written


# --- reading what judges --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Current:
    """What judges each case of a storage; nothing of the entries is read yet."""

    root: Path
    cases: dict[str, _Standing]
    digests: dict[str, str]
    """The content digest of each entry that counts, by the stem of its name."""
    paths: dict[str, Path]

    @classmethod
    def parse(cls, root: Path, texts: Iterable[str], paths: Sequence[Path]) -> Current:
        """Read the files `current.txt` of a storage with these entries."""
        digests: dict[str, str] = {}
        facts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for text in texts:
            for line in text.removeprefix(_HEAD).splitlines():
                case, fact, value = line.split(" ", 2)
                if case == "#":
                    digests[fact] = value
                else:
                    facts[case][fact].append(value)
        return cls(
            root=root,
            cases={case: _Standing.parse(found) for case, found in facts.items()},
            digests=digests,
            paths={path.stem: path for path in paths},
        )

    def adapter_of(self, case: str) -> tuple[Path, str] | None:
        """Return the entry that judges a case and the digest of its adapter, if it has one."""
        found = self.cases.get(case)
        if found is None or not found.adapter:
            return None
        return self.paths[found.judged_by], found.adapter

    def references(self, *, drift: bool) -> dict[str, Observation]:
        """Read what judges each case, by id, with the ledgers of these records alone.

        drift: with the older entries that it counts from. Raises `RunFileError` for an entry, a
        ledger or an adapter that is missing or altered.
        """
        for case, here in self.cases.items():
            if here.adapter:
                check_adapter(self.root, self.paths[here.judged_by], case, here.adapter)
        wanted: dict[str, set[str]] = defaultdict(set)
        for case, here in self.cases.items():
            for stem in here.entries(drift=drift):
                wanted[stem].add(case)
        found: dict[tuple[str, str], Observation] = {}
        environments = {}
        for stem, cases in sorted(wanted.items()):
            entry = self._entry(stem)
            environments[stem] = entry.run.environment
            judged = [case for case in cases if self.cases[case].judged_by == stem]
            whole = with_stored_ledgers(entry, judged).run
            observed = observations_of(whole, stem)
            found |= {(stem, case): observed[case] for case in cases if case in observed}
        return {
            case: dataclasses.replace(
                found[here.judged_by, case],
                curves={
                    machine: one
                    for stem in (*here.curves, here.judged_by)
                    for machine, one in found[stem, case].curves.items()
                },
                drift_origins={
                    metric: Origin(found[stem, case].record.metrics[metric], stem)
                    for metric, stem in (here.origins.items() if drift else ())
                },
                confirmed=Confirmation(here.confirmed_by, environments[here.confirmed_by])
                if here.confirmed_by
                else None,
            )
            for case, here in self.cases.items()
        }

    def _entry(self, stem: str) -> RunFile:
        (entry,) = read_entries_of([self.paths[stem]])
        if entry.run.content_digest != self.digests[stem]:
            problem = f"was replaced: {CURRENT} names the content {self.digests[stem]}"
            raise RunFileError(entry.path, problem, restore(self.root))
        return entry


def current_of(root: Path, contents: Contents) -> Current:
    """Return what judges each case, as entries say that were read."""
    paths = [link.path(root) for link in contents.links]
    return Current.parse(root, current_texts(contents).values(), paths)


def current_at(root: Path, paths: Sequence[Path]) -> Current:
    """Return what judges each case of a storage with these entries.

    Raises `RunFileError` if the storage is not whole.
    """
    texts = _texts_as_written(root, paths)
    if texts is not None:
        return Current.parse(root, texts, paths)
    contents = Contents()
    for entry in read_entries_of(paths):
        contents.add(entry)
    check_whole(root, contents)
    return current_of(root, contents)


def _texts_as_written(root: Path, paths: Sequence[Path]) -> list[str] | None:
    """Return the files `current.txt` if they are those that `newest` names; None otherwise."""
    newest = read_newest(root)
    names = [entry_name(path) for path in paths]
    if newest is None or newest.names != digest_of_names(names):
        return None  # an accept has not ended, or an entry is missing
    found = {folder: _text_of(root, folder) for folder in newest.current}
    if newest.current != {folder: digest_of(content) for folder, content in found.items()}:
        return None
    return [content.decode() for content in found.values()]
