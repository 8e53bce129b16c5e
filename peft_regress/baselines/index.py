"""Read what a storage of thousands of entries says, with an index of those that were read before.

The index lies in the user's cache folder and is never part of a storage. It keeps the `Contents` of
a storage under a key: a digest of the bytes of all its entries, of their names, and of the code
that reads them. Every command reads all these bytes. So an entry that was altered, added, moved or
removed gives another key; it and all that come after it are parsed and checked in full. The records
that judge are always read from their entries. A file of the index that is damaged, or that cannot
be read or written, is as good as none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from peft_regress.baselines.chain import Link, entry_name, entry_number, place_of
from peft_regress.baselines.contents import Contents, Judge
from peft_regress.baselines.current import check_current
from peft_regress.baselines.entries import check_accepted, read_while_still
from peft_regress.cases import Address, CaseId
from peft_regress.errors import InputError, RunFileError
from peft_regress.files import cache_folder, read_bytes
from peft_regress.gate.verdicts import Confirmation, Observation, Origin, observations_of
from peft_regress.gc_pause import paused_gc
from peft_regress.metrics import Metric
from peft_regress.runs.bulk_read import sharing, skim, stream_without_ledgers
from peft_regress.runs.environment import usable_cores
from peft_regress.runs.kept import keep, mark_as_used, read_kept
from peft_regress.runs.run_file import RunFile, parse_run_file, read_content
from peft_regress.runs.schema import Run, digest_of

_WORTH_KEEPING: Final = 16
"""The index is written if so many entries are not in it: reading fewer takes a moment."""
_MOST_FILES: Final = 32
"""How many states of storages the index keeps: those that were used last."""


def read_contents(root: Path, *, current: bool = True) -> Contents:
    """Read and check what the entries of a storage say.

    current: whether to check `current.txt` too. Raises `RunFileError` for an entry that cannot be
    trusted, and where an entry, or a part that one names, is missing.
    """

    def read(paths: Sequence[Path]) -> Contents:
        contents = _read(root, paths)
        contents.check_whole(root)
        if current:
            check_current(root, contents)
        return contents

    with paused_gc():
        return read_while_still(root, read)


def read_contents_before(root: Path, newest: Collection[Path]) -> Contents:
    """Read what a storage, which was checked, said before its newest entries were accepted.

    Raises `RunFileError` for an entry that cannot be trusted.
    """

    def read(paths: Sequence[Path]) -> Contents:
        return _read(root, [path for path in paths if path not in newest])

    with paused_gc():
        return read_while_still(root, read)


def read_entry(root: Path, link: Link, *, ledgers: bool = False) -> RunFile:
    """Read an entry. Raises `RunFileError` if it is no longer that of `link`."""
    path = link.path(root)
    content = read_content(path)
    found = parse_run_file(path, content, ledgers=ledgers)
    if (digest_of(content), found.run.content_digest) != (link.file_digest, link.digest):
        problem = "was replaced while the storage was read"
        raise RunFileError(path, problem, "Type the same command again.")
    return found


def skim_entries(root: Path, links: Sequence[Link]) -> Iterator[Run]:
    """Yield of each entry what a history shows; equal metrics of neighbours are shared.

    Raises `RunFileError` for an entry that is no longer that of its link.
    """
    like: Run | None = None
    for link in links:
        content = read_content(link.path(root))
        if digest_of(content) == link.file_digest:
            run = skim(content)  # `read_contents` has checked these bytes
        else:
            run = read_entry(root, link).run
        like = sharing(run, like) if like else run
        yield like


def _read(root: Path, paths: Sequence[Path]) -> Contents:
    known, contents = 0, Contents()
    if len(paths) >= _WORTH_KEEPING:
        known, contents = _known_part(root, paths)
    unknown = stream_without_ledgers(paths[known:])
    is_worth_keeping = len(paths) - known >= _WORTH_KEEPING
    newest = entry_number(paths[-1]) if paths else None
    for number, group in itertools.groupby(unknown, key=lambda one: entry_number(one[0].path)):
        if is_worth_keeping and number == newest and contents.links:
            keep_contents(contents)  # what judged the newest entry: `report` asks for it
        for entry, file_digest in sorted(_accepted(group), key=lambda one: place_of(one[0])):
            contents.add(entry, file_digest)
    if is_worth_keeping:
        keep_contents(contents)
    return contents


def _accepted(read: Iterable[tuple[RunFile, str]]) -> Iterator[tuple[RunFile, str]]:
    for entry, file_digest in read:
        check_accepted(entry)
        yield entry, file_digest


# --- the files of the index -----------------------------------------------------------------------


class _Judge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    entry: int
    origins: dict[str, tuple[str, Metric | None]]
    """By metric the entry that drift counts from, and the metric there if it differs."""
    curves: dict[str, int]
    """By kind of machine the entry with the newest curve."""
    confirmed: tuple[str, dict[str, str]] | None


class _Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a file of the index, behind the digest of its bytes."""

    key: str
    links: list[Link]
    ledgers: dict[Address, tuple[int, CaseId]]
    adapters: dict[Address, tuple[int, CaseId]]
    adapter_of: dict[CaseId, tuple[int, Address]]
    own: list[CaseId]
    has_addresses: bool
    judges: dict[CaseId, _Judge]


def keep_contents(contents: Contents) -> None:
    """Write the contents of a storage to the index, if that works."""
    files = sorted(
        ((link.name, link.file_digest) for link in contents.links), key=lambda one: _order(one[0])
    )
    *_, key = _keys(files)
    positions = {link.stem: index for index, link in enumerate(contents.links)}
    kept = _Kept(
        key=key,
        links=contents.links,
        ledgers=contents.ledgers,
        adapters=contents.adapters,
        adapter_of=contents.adapter_of,
        own=sorted(contents.own),
        has_addresses=contents.has_addresses,
        judges={
            name: _Judge(
                entry=entry,
                origins=dict(_brief_origins(observation)),
                curves={
                    machine: positions[one.run_name] for machine, one in observation.curves.items()
                },
                confirmed=_plain(observation.confirmed),
            )
            for name, (entry, observation) in contents.judges.items()
        },
    )
    with contextlib.suppress(InputError):
        keep(_folder() / key, msgspec.json.encode(kept), most=_MOST_FILES)


def _plain(confirmed: Confirmation | None) -> tuple[str, dict[str, str]] | None:
    return None if confirmed is None else (confirmed.entry, dict(confirmed.environment))


def _brief_origins(observation: Observation) -> Iterator[tuple[str, tuple[str, Metric | None]]]:
    metrics = observation.record.metrics
    for name, origin in observation.drift_origins.items():
        yield name, (origin.entry, None if origin.metric == metrics[name] else origin.metric)


def _known_part(root: Path, paths: Sequence[Path]) -> tuple[int, Contents]:
    """Return how many of the first entries the index knows, and what they say."""
    with contextlib.suppress(InputError, OSError):
        folder = _folder()
        present = set(os.listdir(folder))  # noqa: PTH208  (names alone)
        with ThreadPoolExecutor(usable_cores()) as pool:
            digests = list(pool.map(_file_digest, paths))
        keys = list(_keys(zip(map(entry_name, paths), digests, strict=True)))
        numbers = [*map(entry_number, paths), None]
        for count in range(len(paths), 0, -1):
            # Dates order the entries of one number, so that they are known together or not at all.
            if keys[count - 1] in present and numbers[count - 1] != numbers[count]:
                contents = _load(root, folder / keys[count - 1])
                if contents is not None:
                    return count, contents
    return 0, Contents()


def _load(root: Path, path: Path) -> Contents | None:
    """Return the contents that a file of the index holds; None if it is not as it was written."""
    content = read_kept(path)
    if content is None:
        return None
    try:
        kept = msgspec.json.decode(content, type=_Kept)
        if kept.key != path.name:
            return None
        judges = dict(_judges(root, kept))
    except (OSError, ValueError, LookupError, InputError):
        return None
    mark_as_used(path)
    return Contents(
        links=kept.links,
        ledgers=dict(kept.ledgers),
        adapters=dict(kept.adapters),
        adapter_of=dict(kept.adapter_of),
        own=set(kept.own),
        has_addresses=kept.has_addresses,
        judges={name: judges[name] for name in kept.judges},
    )


def _judges(root: Path, kept: _Kept) -> Iterator[tuple[str, Judge]]:
    """Yield what judges each case, with the records of the entries themselves."""
    needed = {judge.entry for judge in kept.judges.values()}
    needed |= {index for judge in kept.judges.values() for index in judge.curves.values()}
    read = {}
    for index in sorted(needed):
        entry = read_entry(root, kept.links[index])
        read[index] = observations_of(entry.run, entry.path.stem)
    for name, judge in kept.judges.items():
        observation = read[judge.entry][name]
        metrics = observation.record.metrics
        origins = {
            metric: Origin(found or metrics[metric], since)
            for metric, (since, found) in judge.origins.items()
        }
        yield (
            name,
            Judge(
                judge.entry,
                replace(
                    observation,
                    drift_origins=origins,
                    curves={
                        machine: read[index][name].curves[machine]
                        for machine, index in judge.curves.items()
                    },
                    confirmed=judge.confirmed and Confirmation(*judge.confirmed),
                ),
            ),
        )


def _keys(files: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield for each entry, by its name and the digest of its file, the key of all up to it."""
    digest = hashlib.sha256(_code_digest().encode())
    for name, file_digest in files:
        digest.update(f"{name}\n{file_digest}\n".encode("utf-8", "surrogateescape"))
        yield digest.hexdigest()


def _order(name: str) -> tuple[int, str]:
    """Return the key by which `baseline_files` sorts, from the name of an entry."""
    path = Path(f"{name}.json")
    return entry_number(path), path.as_posix()


def _file_digest(path: Path) -> str:
    try:
        return digest_of(read_bytes(path))
    except OSError:
        return ""  # in no key; whoever reads the entry says why


@functools.cache
def _code_digest() -> str:
    """Return the digest of the code that decides what a storage says: another has its own index."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256(version("peft-regress").encode())
    for folder in ("baselines", "gate", "runs", "."):
        for path in sorted((package / folder).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _folder() -> Path:
    """Return the folder of the index. Raises `InputError` if the user has no home folder."""
    return cache_folder() / "storages"
