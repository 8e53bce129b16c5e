"""Whatever git did to a storage, the printed commands make it whole, with every entry."""

import re
from pathlib import Path

import builders
import pytest
from builders import ENVIRONMENT, FULL, LEDGER, LORA, make_record, read_runs, split_by
from git_shell import follow, run_in

from peft_regress.baselines.named_runs import load_references
from peft_regress.baselines.storage import acceptance_of
from peft_regress.errors import InputError

ROOT = Path("baselines")


def store(reason, *records, peft="0.18.1", **how):
    """Accept a run, and commit the entry."""
    packages = {**ENVIRONMENT, "peft": peft}
    builders.store(ROOT.absolute(), *records, reason=reason, environment=packages, **how)
    run_in(".", f"git add .; git commit -qm '{reason}'")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository whose storage has one entry."""
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run_in(".", "git init -q; printf '.lock\\n*.aside-*\\n' > .gitignore")
    store("first", make_record(LORA), make_record(FULL))


def mended():
    """Follow what the messages print until the storage reads whole; return the messages."""
    messages = []
    for _ in range(4):
        try:
            load_references(ROOT, None)
        except InputError as error:
            messages.append(str(error))
            follow(messages[-1])
        else:
            return messages
    raise AssertionError("\n".join(messages))


def reasons():
    """Return why each entry was accepted, in their order; each is as it was on its branch."""
    found = [acceptance_of(entry) for entry in read_runs(ROOT)]
    for one in found:
        assert one.role == ("history" if one.reason == "old theirs" else "baseline")
        assert one.retired == ([FULL] if one.reason == "theirs" else [])
    return [one.reason for one in found]


OTHER, SAME = "0.22.0", "0.18.1"
JOINS = [
    (OTHER, "git merge theirs || true", "git commit --no-edit"),
    (SAME, "git merge theirs || true", "git commit --no-edit"),
    (OTHER, "git merge -qX theirs -m m theirs", "true"),
    (OTHER, "git merge -qX ours -m m theirs", "true"),
    (OTHER, "git rebase theirs || true", "git rebase --continue"),
    (SAME, "git rebase theirs || true", "git rebase --continue"),
    (SAME, "git rebase -qX theirs theirs", "true"),
    (OTHER, "git cherry-pick theirs~1 || true", "git cherry-pick --continue"),
    (SAME, "git cherry-pick theirs~1 || true", "git cherry-pick --continue"),
]


@pytest.mark.parametrize(("peft", "join", "end"), JOINS)
def test_two_branches_that_accepted_are_joined_by_what_the_messages_print(
    repository, peft, join, end
):
    """With another peft the entries of the branches have other names."""
    run_in(".", "git switch -qc theirs")
    store("theirs", make_record(LORA, {"aten_ops": 5}), peft=peft, retire=[FULL])
    store("old theirs", make_record(FULL), peft=peft, history=True)
    run_in(".", "git switch -q main")
    store("mine", make_record(LORA, {"aten_ops": 7}))
    run_in(".", join)
    assert mended()
    run_in(".", f"git add .; {end}; git diff --exit-code")
    every = {"first", "mine", "theirs", "old theirs"}
    assert set(reasons()) == (every - {"old theirs"} if "cherry-pick" in join else every)
    last = read_runs(ROOT)[-1].path.stem
    judging = {name: one.run_name for name, one in load_references(ROOT, None).items()}
    assert judging == {LORA: last} if "rebase" in join else judging.keys() == {LORA}


ENTRY = "baselines/*/000{}_peft-0.18.1.json"
CHANGES = {
    "revert of the newest": ("git revert --no-edit HEAD", 0, "12"),
    "revert of an older one": ("git revert HEAD~1 || true", 1, "123"),
    "revert of an older one, committed": ("git revert --no-edit -X theirs HEAD~1", 1, "123"),
    "an entry removed": (f"git rm -q {ENTRY.format(2)}; git commit -qm gone", 1, "123"),
    "newest of before": ("git restore -s HEAD~1 baselines/newest", 0, "123"),
    "newest of long before": ("git restore -s HEAD~2 baselines/newest", 1, "123"),
    "current of before": ("git restore -s HEAD~1 baselines/*/current.txt", 1, "123"),
    "both of before": ("git restore -s HEAD~1 baselines/newest baselines/*/current.txt", 0, "123"),
    "newest of before, current of long before": (
        "git restore -s HEAD~1 baselines/newest; git restore -s HEAD~2 baselines/*/current.txt",
        1,
        "123",
    ),
    "ledgers removed": ("git rm -qr baselines/ledgers; git commit -qm x", 1, "123"),
}


@pytest.mark.parametrize(("change", "count", "kept"), CHANGES.values(), ids=list(CHANGES))
def test_a_storage_that_git_took_apart_is_made_whole_by_what_the_messages_print(
    repository, change, count, kept
):
    for value in "23":
        metrics = {**split_by(LEDGER), "aten_ops": int(value)}
        store(value, make_record(LORA, metrics, ledger=LEDGER))
    run_in(".", change)
    assert len(mended()) == count
    assert reasons() == [{"1": "first"}.get(one, one) for one in kept]
    assert load_references(ROOT, None)[LORA].record.metrics["aten_ops"].value == int(kept[-1])


def test_entries_that_were_never_committed_are_kept(repository):
    """`git stash` puts `newest` aside, and not the new entry."""
    run_in(".", "git switch -qc theirs")
    store("theirs", make_record(LORA, {"aten_ops": 5}), peft=OTHER, retire=[FULL])
    run_in(".", "git switch -q main")
    store("mine", make_record(LORA, {"aten_ops": 7}))
    run_in(".", "git reset -q HEAD~1; git stash -q; git merge -q --ff-only theirs")
    (message,) = mended()
    assert re.search("two branches accepted.* Put it aside, take that of commit", message)
    assert reasons() == ["first", "theirs", "mine"]
