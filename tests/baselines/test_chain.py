"""The chain of entries: what is missing, moved, forked or altered is told, with how to mend it."""

import gzip
import itertools
import json
import shutil
from pathlib import Path

import pytest
from builders import LEDGER, LORA, make_record, read_runs, split_by, store
from git_shell import follow, run_in

from peft_regress.baselines.history import read_entries
from peft_regress.baselines.named_runs import load_references
from peft_regress.baselines.storage import acceptance_of, baseline_files, read_newest
from peft_regress.errors import InputError, RunFileError
from peft_regress.runs.ledger_files import ledger_content
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import canonical_digest


def store_value(root, value):
    """Accept a run that differs from others by a number."""
    return store(root, make_record(LORA, {**split_by(LEDGER), "aten_ops": value}, ledger=LEDGER))


@pytest.fixture
def root(tmp_path):
    """A storage of four entries, the newest the worst, in a repository."""
    root = tmp_path / "baselines"
    for value in (10, 900, 500, 20):
        store_value(root, value)
    run_in(tmp_path, "git init -q; echo .lock > .gitignore; git add .; git commit -qm stored")
    return root


def refused(root, match):
    """Check that gate, compare, history and accept refuse a storage in the same words.

    Return them.
    """
    before = baseline_files(root)
    for use in (
        lambda: load_references(root, None),
        lambda: load_references(root.parent, str(root)),
        lambda: read_entries(root, []),
        lambda: store_value(root, 7),
    ):
        with pytest.raises(InputError, match=match) as error:
            use()
        assert str(error.value).isprintable()
    assert baseline_files(root) == before
    return str(error.value)


def test_each_entry_names_where_it_belongs_and_the_digest_of_the_one_before(root):
    entries = read_runs(root)
    assert [entry.path.name[:4] for entry in entries] == ["0001", "0002", "0003", "0004"]
    assert acceptance_of(entries[0]).predecessor == ""
    for before, entry in itertools.pairwise(entries):
        assert acceptance_of(entry).predecessor == before.run.content_digest
        assert acceptance_of(entry).entry == f"{entry.path.parent.name}/{entry.path.stem}"
    assert read_newest(root).digest == entries[-1].run.content_digest


def rewrite(source, path, change):
    """Write a changed copy of an entry, with a digest that fits."""
    document = json.loads(source.read_text())
    ours = document["peft_regress"]
    ours.pop("content_digest")
    change(ours)
    ours["content_digest"] = canonical_digest(ours)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))


def remove(*numbers):
    def damage(root):
        files = baseline_files(root)
        for number in numbers:
            files[number - 1].unlink()

    return damage


def move(folder, name):
    def damage(root):
        (root / folder).mkdir(exist_ok=True)
        baseline_files(root)[2].rename(root / folder / name)

    return damage


def write_newest(content):
    return lambda root: (root / "newest").write_bytes(content)


def merge_the_entry_of_a_branch(root):
    """Of the same number, in another machine's folder, as git would merge them."""
    mine = store_value(root, 30)
    windows = root / "Windows-CPython-3.11-64bit" / mine.name
    name = f"{windows.parent.name}/{windows.stem}"
    rewrite(mine, windows, lambda ours: ours["accepted"].update(entry=name))


LINUX = "Linux-CPython-3.11-64bit"
DAMAGES = {
    **{
        f"entry {n} removed": (remove(n), rf"/{n + 1:04d}_.*: its predecessor is missing")
        for n in (1, 2, 3)
    },
    "newest removed": (remove(4), r"newest: names .*/0004_.*, which is missing or was replaced"),
    "all later removed": (remove(2, 3, 4), r"newest: names .*/0004_"),
    "name of the newest removed": (
        lambda root: (root / "newest").unlink(),
        r"newest: is missing, so that no one knows",
    ),
    "no name": (write_newest(b"\xff{}\n"), r"newest: does not name an entry"),
    "a name without digests": (
        write_newest(b'{"entry": "a/0001_x", "digest": "sha256:0"}'),
        r"newest: does not name an entry .*missing required field `names`",
    ),
    "conflict": (write_newest(b"{\n<<<<<<< HEAD\n"), r"newest: has git conflict markers"),
    **{
        f"moved to {folder}/{name}": (
            move(folder, name),
            r"was moved or renamed: it is the entry .*/0003_",
        )
        for folder, name in (
            ("Windows-CPython-3.11-64bit", "0003_peft-0.18.1.json"),
            (LINUX, "0009_peft-0.18.1.json"),
            (LINUX, "0003_other.json"),
        )
    },
    "two branches": (merge_the_entry_of_a_branch, r"follows 0004_.*: two branches accepted"),
    "ledgers removed": (
        lambda root: shutil.rmtree(root / "ledgers"),
        rf"/000[14]_.*: {LORA}: its ledger .*\.json\.gz is missing",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_storage_that_is_not_whole_is_refused_until_the_printed_commands_were_typed(
    root, damage, message, monkeypatch
):
    monkeypatch.chdir(root.parent)
    expected = [entry.run for entry in read_runs(root)]
    damage(root)
    follow(refused(root, message))
    load_references(root, None)
    assert [entry.run for entry in read_runs(root)][:4] == expected
    # Both entries of that damage are of one run, so they are stored once.
    assert len(baseline_files(root)) == (5 if damage is merge_the_entry_of_a_branch else 4)


def test_without_git_it_is_refused_too(root):
    shutil.rmtree(root.parent / ".git")
    baseline_files(root)[1].unlink()
    refused(root, "No commit of git has it whole: take it from another checkout or a backup")


def test_an_entry_that_was_replaced_is_refused_where_it_is_read(root):
    files = baseline_files(root)
    rewrite(files[1], files[1], lambda ours: ours["accepted"].update(reason="another"))
    refused(root, r"/0003_.*: its predecessor is missing")
    files[1].write_text("")
    with pytest.raises(RunFileError, match="not valid JSON"):
        read_entries(root, [])


def ledger_of(root):
    (path,) = root.glob("ledgers/??/*.json.gz")
    return path


def test_a_ledger_lies_beside_the_entries_once_and_is_the_same_file_each_time(root):
    path = ledger_of(root)
    assert path.name == canonical_digest(LEDGER).removeprefix("sha256:") + ".json.gz"
    assert path.read_bytes() == ledger_content(LEDGER)
    assert [entry.run.cases[LORA].ledger for entry in read_runs(root)] == [LEDGER] * 4
    assert load_references(root, None)[LORA].record.ledger == LEDGER
    found = read_entries(root, [])
    assert found[-1].run.cases[LORA].ledger == canonical_digest(LEDGER), "a history reads none"
    copied = Path(shutil.copy(baseline_files(root)[-1], root.parent / "copied.json"))
    with pytest.raises(RunFileError, match=r"is missing.*an entry is whole only inside its sto"):
        read_run_file(copied)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-30],
        lambda _: b"",
        lambda _: b"<<<<<<< HEAD",
        lambda _: gzip.compress(b"{}"),
        lambda _: gzip.compress(bytes(2**24)),
        lambda content: gzip.compress(gzip.decompress(content).replace(b"456", b"457")),
    ],
    ids=["cut", "empty", "conflict", "another", "bomb", "altered"],
)
def test_a_ledger_that_was_altered_is_refused_where_it_is_read(root, damage):
    path = ledger_of(root)
    path.write_bytes(damage(path.read_bytes()))
    for use in (lambda: load_references(root, None), lambda: load_references(root, "0004")):
        with pytest.raises(InputError, match=r"\.json\.gz was altered.*git checkout -- ") as error:
            use()
        assert str(error.value).isprintable()
