"""The run files of a folder: the shards of one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from builders import (
    BOTH,
    FULL,
    LEDGER,
    LORA,
    OTHER_MACHINE,
    UNSEEN_LORA,
    make_record,
    make_run,
    rich_run,
    shard,
    write_run,
)

from peft_regress.errors import InputError, RunFileError
from peft_regress.runs.schema import (
    MIXED_MACHINES,
    Selection,
)
from peft_regress.runs.shards import read_run

if TYPE_CHECKING:
    from pathlib import Path


def test_shards_in_a_folder_are_one_complete_run(tmp_path: Path) -> None:
    write_run(tmp_path / "1.json", shard(1, make_record(LORA)))
    write_run(tmp_path / "2.json", shard(2, make_record(FULL)))
    run = read_run(tmp_path).run
    assert run.cases.keys() == BOTH
    assert list(run.cases) == sorted(run.cases)
    assert run.selection == Selection(complete=True)
    assert run.machine.digest == "sha256:here"


def test_a_shard_that_is_not_there_leaves_the_union_incomplete(tmp_path: Path) -> None:
    write_run(tmp_path / "1.json", shard(1, make_record(LORA)))
    selection = read_run(tmp_path).run.selection
    assert selection == Selection(
        complete=False, narrowed_by=["--regress-shard 1/2"], not_selected=[FULL]
    )


def test_a_shard_that_was_interrupted_leaves_the_union_incomplete(tmp_path: Path) -> None:
    write_run(tmp_path / "1.json", shard(1, make_record(LORA)))
    second = shard(2, make_record(FULL))
    write_run(tmp_path / "2.json", msgspec.structs.replace(second, cases={}))
    assert not read_run(tmp_path).run.selection.complete


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_that_was_interrupted_is_incomplete_in_a_folder_too(
    tmp_path: Path, count: int
) -> None:
    """Interrupted is: incomplete though nobody narrowed it."""
    write_run(tmp_path / "1.json", make_run(make_record(LORA), selection=Selection(complete=False)))
    if count == 2:
        write_run(tmp_path / "2.json", make_run(make_record(FULL)))
    assert not read_run(tmp_path).run.selection.complete


def test_a_run_narrowed_by_hand_stays_partial_in_a_folder(tmp_path: Path) -> None:
    selection = Selection(complete=False, narrowed_by=["-k lora"], not_selected=[FULL])
    write_run(tmp_path / "1.json", make_run(make_record(LORA), selection=selection))
    assert read_run(tmp_path).run.selection == selection


def test_a_single_run_in_a_folder_is_that_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "1.json", rich_run())
    single = msgspec.structs.replace(read_run(path).run, content_digest="")
    union = read_run(tmp_path).run
    assert dict(union.cases) == dict(single.cases)
    assert union.selection == single.selection


def test_a_ledger_that_both_shards_have_is_in_both_records(tmp_path: Path) -> None:
    whole = make_run(make_record(LORA, ledger=LEDGER), make_record(UNSEEN_LORA, ledger=LEDGER))
    for index, record in enumerate(whole):
        write_run(tmp_path / "shards" / f"{index}.json", make_run(record))
    union = read_run(tmp_path / "shards").run
    assert [record.ledger for record in union] == [LEDGER, LEDGER]
    stored = write_run(tmp_path / "whole.json", union)
    assert read_run(stored).run.cases == whole.cases
    assert stored.read_text().count("conv1.base_layer") == 1


def test_a_case_in_two_files_is_refused_with_both_names(tmp_path: Path) -> None:
    write_run(tmp_path / "1.json")
    write_run(tmp_path / "2.json")
    with pytest.raises(InputError, match=rf"case {LORA} is in 1\.json and in 2\.json"):
        read_run(tmp_path)


def test_shards_of_two_environments_are_refused_by_the_package(tmp_path: Path) -> None:
    write_run(tmp_path / "1.json", shard(1, make_record(LORA), environment={"peft": "1"}))
    write_run(tmp_path / "2.json", shard(2, make_record(FULL), environment={"peft": "2"}))
    with pytest.raises(InputError, match="peft is 1 in one, 2 in the other"):
        read_run(tmp_path)


def test_shards_of_two_machines_are_a_run_whose_times_are_not_judged(tmp_path: Path) -> None:
    write_run(tmp_path / "1.json", shard(1, make_record(LORA)))
    write_run(tmp_path / "2.json", shard(2, make_record(FULL), machine=OTHER_MACHINE))
    assert read_run(tmp_path).run.machine.digest == MIXED_MACHINES


def test_a_folder_without_a_run_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="has no run file"):
        read_run(tmp_path)


def test_one_damaged_file_fails_the_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "1.json")
    (tmp_path / "2.json").write_text("{}")
    with pytest.raises(RunFileError):
        read_run(tmp_path)
