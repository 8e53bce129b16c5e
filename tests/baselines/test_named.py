"""What a name stands for: a run file, a folder of shards, a storage or an entry of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from builders import FULL, LORA, make_run, write_entry, write_run
from test_references import NEW, OLD, flops, value_of

from peft_regress.baselines.named_runs import find_input, find_named, load_references, named_case
from peft_regress.errors import AbsentError, InputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["0001", "0001_peft-0.18.1", "0001_peft-0.18.1.json"])
def test_an_entry_is_chosen_by_its_name(tmp_path: Path, name: str) -> None:
    write_entry(tmp_path, 1, flops(1), date=OLD)
    write_entry(tmp_path, 2, flops(2), date=NEW)
    assert value_of(load_references(tmp_path, name)) == 1


def test_a_run_file_is_chosen_by_its_path(tmp_path: Path) -> None:
    path = write_run(tmp_path / "my runs" / "a run.json", make_run(flops(7)))
    references = load_references(tmp_path / "baselines", str(path))
    assert value_of(references) == 7
    assert references[LORA].run_name == str(path)


def test_a_folder_of_shards_is_chosen_by_its_path(tmp_path: Path) -> None:
    write_run(tmp_path / "shards" / "1.json", make_run(flops(1)))
    write_run(tmp_path / "shards" / "2.json", make_run(flops(2, FULL)))
    references = load_references(tmp_path, str(tmp_path / "shards"))
    assert references.keys() == {LORA, FULL}


def test_another_storage_is_chosen_by_its_path_and_its_history_never_gates(tmp_path: Path) -> None:
    write_entry(tmp_path / "other", 1, flops(1), date=OLD)
    write_entry(tmp_path / "other", 2, flops(2), date=NEW, role="history")
    assert value_of(load_references(tmp_path, str(tmp_path / "other"))) == 1


@pytest.mark.parametrize("name", ["0007", "1", "peft-0.18.1", "no/such/file.json", "x" * 300])
def test_a_name_that_fits_nothing_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    write_entry(tmp_path, 1)
    with pytest.raises(InputError, match=r"is no file and no entry .*0001_peft-0\.18\.1"):
        load_references(tmp_path, name)


def test_an_empty_name_is_refused_and_not_read_as_the_working_directory(tmp_path: Path) -> None:
    write_entry(tmp_path, 1)
    with pytest.raises(InputError, match="the name is empty"):
        load_references(tmp_path, "")


def test_a_name_in_an_empty_storage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Entries: none"):
        load_references(tmp_path, "0001")


def test_a_name_of_nothing_is_absent_and_as_an_input_wrong_use(tmp_path: Path) -> None:
    for find, error in ((find_named, AbsentError), (find_input, InputError)):
        with pytest.raises(error, match="Make a run file with `pytest SUITE"):
            find(tmp_path, "run.json")


def test_one_run_is_read_from_a_file_a_folder_or_an_entry_and_not_from_a_storage(
    tmp_path: Path,
) -> None:
    path = write_run(tmp_path / "shards" / "1.json", make_run(flops(1)))
    write_entry(tmp_path / "b", 3, flops(1))
    for name in (str(path), str(path.parent), "0003"):
        assert find_input(tmp_path / "b", name).read().run.cases.keys() == {LORA}
    with pytest.raises(InputError, match=r"b: is a baseline storage\. Name a run file or one"):
        find_input(tmp_path, str(tmp_path / "b")).read()


def test_a_case_that_is_not_there_is_absent_with_the_closest_ones(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, flops(1), flops(1, FULL))
    assert named_case(tmp_path, "0001", LORA).record == flops(1)
    with pytest.raises(AbsentError, match=f"0001 holds no case .*; it holds 2. There are: {LORA}"):
        named_case(tmp_path, "0001", LORA.replace("18", "50"))
    with pytest.raises(InputError, match="is not a case id"):
        named_case(tmp_path, "0001", "lora")
