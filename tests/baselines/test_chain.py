"""The chain of entries: what is missing, moved, forked or altered is told, with how to mend it."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from builders import LEDGER, LORA, accept, make_record, make_run, split_by, write_run

from peft_regress.baselines.history import read_entries
from peft_regress.baselines.named_runs import load_references
from peft_regress.baselines.storage import baseline_files, entry_number, read_newest, read_runs
from peft_regress.errors import InputError, RunFileError
from peft_regress.runs.ledger_files import ledger_content, ledger_digest
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import canonical_digest

if TYPE_CHECKING:
    from collections.abc import Callable

DATE = "2026-01-01T00:00:00+00:00"


def run_of(folder: Path, value: int) -> Path:
    """Write a run that differs from others by a number."""
    metrics = {**split_by(LEDGER), "aten_ops": value}
    return write_run(folder / f"{value}.json", make_run(make_record(LORA, metrics, ledger=LEDGER)))


def store(root: Path, value: int, *, date: str = DATE, **how: Any) -> Path:
    return accept(run_of(root.parent, value), root=root, reason=f"r{value}", date=date, **how)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A storage of four entries, the newest the worst."""
    root = tmp_path / "baselines"
    for value in (10, 900, 500, 20):
        store(root, value)
    return root


def refused(root: Path, match: str, *, gate: bool = True) -> None:
    """Check that gate, compare, history and accept refuse a storage in the same words.

    gate: whether the first two read what is wrong.
    """
    before = baseline_files(root)
    judging = (
        lambda: load_references(root, None),
        lambda: load_references(root.parent, str(root)),
    )
    for use in (
        *(judging if gate else ()),
        lambda: read_entries(root, []),
        lambda: store(root, 7),
    ):
        with pytest.raises(InputError, match=match) as error:
            use()
        assert str(error.value).isprintable()
        assert "`git " in str(error.value) or "`peft-regress accept`" in str(error.value)
    assert baseline_files(root) == before


def accepted(path: Path) -> Any:
    return read_run_file(path).run.accepted


def test_each_entry_names_where_it_belongs_and_the_digest_of_the_one_before(root: Path) -> None:
    entries = read_runs(root)
    assert [entry_number(entry.path) for entry in entries] == [1, 2, 3, 4]
    for before, entry in itertools.pairwise(entries):
        assert entry.run.accepted is not None
        assert entry.run.accepted.predecessor == before.run.content_digest
        assert entry.run.accepted.entry == f"{entry.path.parent.name}/{entry.path.stem}"
    newest = read_newest(root)
    assert newest is not None
    assert newest.digest == entries[-1].run.content_digest
    assert accepted(store(root.with_name("other"), 1)).predecessor == ""


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_entry_that_was_removed_is_missed_by_its_successor(root: Path, number: int) -> None:
    path = baseline_files(root)[number - 1]
    path.unlink()
    refused(root, rf"/{number + 1:04d}_.*: its predecessor is missing .*git checkout -- ")


def test_the_newest_entry_is_missed_too(root: Path) -> None:
    """Else an older and looser one would judge without a word."""
    baseline_files(root)[-1].unlink()
    refused(root, r"newest: names .*/0004_.*, which is missing or was replaced\. Restore")


def test_all_entries_of_the_chain_are_missed(root: Path) -> None:
    for path in baseline_files(root)[1:]:
        path.unlink()
    refused(root, r"newest: names .*/0004_")


def test_without_the_name_of_the_newest_entry_nobody_knows_whether_it_is_there(root: Path) -> None:
    (root / "newest").unlink()
    refused(root, r"newest: is missing, so that no one knows .*git checkout -- ")
    (root / "newest").write_bytes(b"\xff{}\n")
    refused(root, r"newest: does not name an entry .*git checkout -- ")


def test_a_merge_of_two_branches_that_accepted_is_told_with_how_to_go_on(root: Path) -> None:
    whole = (root / "newest").read_bytes()
    (root / "newest").write_bytes(b"{\n<<<<<<< HEAD\n" + whole)
    refused(root, r"newest: has git conflict markers.*git restore --source BRANCH")


def test_an_older_name_of_the_newest_entry_is_told(root: Path) -> None:
    entry = read_runs(root)[1]
    newest = json.loads((root / "newest").read_text())
    newest["entry"] = f"{entry.path.parent.name}/{entry.path.stem}"
    newest["digest"] = entry.run.content_digest
    (root / "newest").write_text(json.dumps({**newest, "names": "sha256:0"}))
    refused(root, r"newest: is older than 0004_.*: it names .*/0002_")


@pytest.mark.parametrize("move", ["folder", "number", "title"])
def test_an_entry_that_was_moved_is_told(root: Path, move: str) -> None:
    path = baseline_files(root)[2]
    target = {
        "folder": root / "Windows-CPython-3.11-64bit" / path.name,
        "number": path.with_name(path.name.replace("0003", "0009")),
        "title": path.with_name("0003_other.json"),
    }[move]
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    refused(root, r"was moved or renamed: it is the entry .*/0003_")


def test_two_branches_that_accepted_are_told(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "branch" / "baselines"
    shutil.copytree(root, other)
    mine = store(root, 30)
    theirs = store(other, 31, history=True)
    shutil.copy(theirs, mine.with_name("0005_zz.json"))
    refused(root, r"was moved or renamed")
    mine.with_name("0005_zz.json").unlink()
    # The same number in another machine's folder, as git would merge them.
    windows = root / "Windows-CPython-3.11-64bit" / mine.name
    name = f"{windows.parent.name}/{windows.stem}"
    rewrite(mine, windows, lambda ours: ours["accepted"].update(entry=name))
    refused(root, r"follows 0004_.*: two branches accepted.*git restore --source BRANCH")


def rewrite(source: Path, path: Path, change: Callable[[Any], object]) -> None:
    """Write a changed copy of an entry, with a digest that fits."""
    document = json.loads(source.read_text())
    ours = document["peft_regress"]
    ours.pop("content_digest")
    change(ours)
    ours["content_digest"] = canonical_digest(ours)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))


def test_an_entry_that_was_made_again_with_other_numbers_breaks_the_chain(root: Path) -> None:
    path = baseline_files(root)[1]
    rewrite(path, path, lambda ours: ours["cases"][LORA]["metrics"]["aten_ops"].update(value=5))
    refused(root, r"/0003_.*: its predecessor is missing", gate=False)


# --- ledgers --------------------------------------------------------------------------------------


def ledger_of(root: Path) -> Path:
    (path,) = root.glob("ledgers/??/*.json.gz")
    return path


def test_a_ledger_lies_beside_the_entries_once_and_is_the_same_file_each_time(root: Path) -> None:
    """That of three entries; the one from before has its own."""
    path = ledger_of(root)
    assert path.name == ledger_digest(LEDGER).removeprefix("sha256:") + ".json.gz"
    assert path.read_bytes() == ledger_content(LEDGER)
    assert [entry.run.cases[LORA].ledger for entry in read_runs(root)] == [LEDGER] * 4
    assert load_references(root, None)[LORA].record.ledger == LEDGER
    found = read_entries(root, [])
    assert found[-1].run.cases[LORA].ledger == ledger_digest(LEDGER), "a history reads none"


def test_a_ledger_that_is_missing_is_told_by_whoever_reads_the_storage(root: Path) -> None:
    shutil.rmtree(root / "ledgers")
    refused(
        root, rf"/000[14]_.*: {LORA}: its ledger .*\.json\.gz is missing\. Restore it with `git "
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-30],
        lambda _: b"",
        lambda _: b"<<<<<<< HEAD",
        lambda _: gzip.compress(b"{}"),
        lambda _: gzip.compress(bytes(2**27)),
        lambda content: gzip.compress(gzip.decompress(content).replace(b"456", b"457")),
    ],
    ids=["cut", "empty", "conflict", "another", "bomb", "altered"],
)
def test_a_ledger_that_was_altered_is_refused_where_it_is_read(
    root: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = ledger_of(root)
    path.write_bytes(damage(path.read_bytes()))
    for use in (
        lambda: load_references(root, None),
        lambda: load_references(root, "0004"),
        lambda: store(root, 7),
    ):
        with pytest.raises(InputError, match=r"\.json\.gz was altered.*git checkout -- ") as error:
            use()
        assert str(error.value).isprintable()


def test_an_entry_alone_is_not_whole(root: Path, tmp_path: Path) -> None:
    path = shutil.copy(baseline_files(root)[-1], tmp_path / "copied.json")
    with pytest.raises(
        RunFileError, match=r"is missing.*an entry is whole only inside its storage"
    ):
        read_run_file(Path(path))


# --- order ----------------------------------------------------------------------------------------


def test_a_run_accepted_while_the_clock_was_a_year_ahead_judges_until_the_next(root: Path) -> None:
    store(root, 40, date="2027-01-01T00:00:00+00:00")
    store(root, 41)
    assert load_references(root, None)[LORA].run_name.startswith("0006_")
    assert read_entries(root, [])[-1].run.cases[LORA].metrics["aten_ops"].value == 41
