"""`accept` is a transaction: killed, without space or beside others, the storage reads whole."""

import shutil

import pytest
from builders import (
    LEDGER,
    LORA,
    keep_weights,
    make_record,
    make_run,
    read_runs,
    split_by,
    write_run,
)
from command_words import call_command
from interruptions import FULL, FULL_ONCE, KILLED, changing_calls, in_processes, interrupted

from peft_regress.baselines.references import read_references
from peft_regress.baselines.storage import acceptance_of
from peft_regress.baselines.stored_adapters import stored_adapter

HEAD = "shift/head/resnet18"
STORAGES = ("none", "one entry")


def write_world(folder, *, storage):
    """Write a run of two cases with an adapter, and a storage that it can be accepted into."""
    head = make_record(HEAD, invariants={"saved_adapter_reloads": True})
    for name, size in (("older.json", 10), ("run.json", 20)):
        lora = make_record(LORA, {**split_by(LEDGER), "aten_ops": size}, ledger=LEDGER)
        run = make_run(lora, head)
        keep_weights(write_run(folder / name, run), head, b"x" * size)
    if storage == "one entry":
        assert accept(folder, run="older.json") == 0
    return folder


def accept(folder, *, run="run.json", reason="why"):
    """Type the command in this process; return its exit code."""
    command = ("accept", folder / run, "--reason", reason, "--baselines", folder / "baselines")
    return call_command(*command)[0]


def check_whole(root):
    """Read all of a storage, with what its entries name; return how many there are."""
    entries = read_runs(root)
    read_references(root)
    for entry in entries:
        for case in acceptance_of(entry).adapters:
            record = entry.run.cases[case]
            assert stored_adapter(root, record.case, record.definition)
    return len(entries)


def files_in(root):
    """Return the names of the files of a storage."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("step", "storages"),
    [
        pytest.param(9, ("one entry",), id="some"),
        pytest.param(3, STORAGES, id="a third", marks=pytest.mark.slow),
        pytest.param(1, STORAGES, id="all", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("how", [KILLED, FULL, FULL_ONCE])
def test_whatever_happens_at_any_changing_call_the_storage_is_as_before_or_after(
    tmp_path, how, step, storages
):
    for storage in storages:
        whole = write_world(tmp_path / f"{storage} whole", storage=storage)
        first = write_world(tmp_path / f"{storage} first", storage=storage)
        before = len(read_runs(first / "baselines"))
        count = changing_calls(lambda whole=whole: accept(whole))
        assert count > 20  # of seven files: each is synced and renamed, its first name is removed
        assert check_whole(whole / "baselines") == before + 1
        for at in range(1, count + 1, step):
            folder = tmp_path / f"{storage} {at}"
            shutil.copytree(first, folder)
            code = interrupted(lambda folder=folder: accept(folder), how=how, at=at)
            assert code in {None, 0, 2}, (storage, at, code)
            assert check_whole(folder / "baselines") in {before, before + 1}, (storage, at)
            assert accept(folder) == 0, (storage, at)
            assert check_whole(folder / "baselines") == before + 1, (storage, at)
            assert files_in(folder / "baselines") == files_in(whole / "baselines"), (storage, at)
            shutil.rmtree(folder)


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(1, id="once"),
        pytest.param(20, marks=pytest.mark.slow),
        pytest.param(500, marks=pytest.mark.nightly),
    ],
)
def test_four_that_accept_at_once_all_do_and_a_reader_always_reads(tmp_path, rounds):
    for number in range(rounds):
        folder = write_world(tmp_path / str(number), storage=STORAGES[number % len(STORAGES)])
        before = len(read_runs(folder / "baselines"))

        def read(folder=folder):
            for _ in range(10):
                read_references(folder / "baselines")
            return 0

        writers = [
            lambda name=f"by {k}", folder=folder: accept(folder, reason=name) for k in range(4)
        ]
        assert in_processes([*writers, read]) == [0] * 5, number
        assert check_whole(folder / "baselines") == before + 4
        shutil.rmtree(folder)
