"""What judges each case now: a file for each machine's folder, a number a line, for `git diff`.

It follows from the entries, so that it can be written anew at any time. It is written between an
entry and the name of the newest one: as long as that name is behind, an accept has not ended.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET

from peft_regress.baselines.chain import check_inside, read_newest
from peft_regress.baselines.contents import Contents
from peft_regress.errors import RunFileError
from peft_regress.files import read_bytes, write_atomic
from peft_regress.metrics import metric_order
from peft_regress.runs.schema import Record
from peft_regress.text import printable

CURRENT: Final = "current.txt"

_HEAD: Final = "# What judges each case now, from the entries: see `peft-regress accept --renew`.\n"
_SHOWN: Final = frozenset({"exact", "bytes", "accuracy", "score"})
"""The kinds of metrics: fingerprints are long lists, times and information judge nothing."""


def current_texts(contents: Contents) -> dict[str, str]:
    """Return the text of each machine's folder: the cases that its entries judge."""
    texts = {link.folder: [_HEAD] for link in contents.links}
    for name, judge in sorted(contents.judges.items()):
        link = contents.links[judge.entry]
        facts = _facts(link.stem, judge.observation.record)
        texts[link.folder] += [f"{printable(f'{name} {fact}')}\n" for fact in facts]
    return {folder: "".join(lines) for folder, lines in texts.items()}


def _facts(entry: str, record: Record) -> Iterator[str]:
    yield f"judged_by {entry}"
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


def check_current(root: Path, contents: Contents) -> None:
    """Raise `RunFileError` for a file that does not say what the entries say.

    contents: all of the storage. A storage from before the chain has no such files.
    """
    newest = contents.links[-1].newest if contents.links else None
    if newest is None or read_newest(root) != newest:
        return
    for folder, text in current_texts(contents).items():
        path = root / folder / CURRENT
        try:
            found = read_bytes(path)
        except OSError as error:
            problem = f"cannot be read ({error.strerror}): it says what judges each case now"
            raise RunFileError(path, problem, _renew(root)) from error
        if found.replace(b"\r\n", b"\n") != text.encode():
            problem = "is not what the entries say: it was edited, or is older than they are"
            raise RunFileError(path, problem, _renew(root))


def _renew(root: Path) -> str:
    command = f"peft-regress accept --renew --baselines {shlex.quote(str(root))}"
    return f"Write it anew with `{command}`."


def write_current(root: Path, contents: Contents) -> list[Path]:
    """Write the file of each machine's folder, unless it is there. Raises `InputError`.

    Return those that were written.
    """
    written = []
    for folder, text in current_texts(contents).items():
        path = root / folder / CURRENT
        check_inside(root, path)
        try:
            is_there = read_bytes(path) == text.encode()
        except OSError:
            is_there = False
        if not is_there:
            write_atomic(path, text.encode())
            written.append(path)
    return written
