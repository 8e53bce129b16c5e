"""What a case is judged by: newest by number, never by history, or what was named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from builders import FULL, GALORE, LORA, make_record, write_entry, write_run

from peft_regress.baselines.accept import retirable_cases
from peft_regress.baselines.current import read_contents
from peft_regress.baselines.named_runs import load_references
from peft_regress.errors import RunFileError, UnknownNameError

if TYPE_CHECKING:
    from pathlib import Path

    from peft_regress.gate.verdicts import Observation

OLD, NEW = "2026-01-01T00:00:00+00:00", "2026-06-01T00:00:00+00:00"


def flops(value: int, identifier: str = LORA) -> object:
    return make_record(identifier, {"forward_flops": value})


def value_of(references: dict[str, Observation], identifier: str = LORA) -> float:
    return references[identifier].record.metrics["forward_flops"].value


def test_without_entries_there_is_no_reference(tmp_path: Path) -> None:
    assert load_references(tmp_path, None) == {}


def test_a_storage_that_does_not_exist_holds_no_reference(tmp_path: Path) -> None:
    assert load_references(tmp_path / "nowhere", None) == {}


def test_newest_is_decided_by_number_and_not_by_date(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, flops(111), date=NEW)
    write_entry(tmp_path, 2, flops(222), date=OLD)
    assert value_of(load_references(tmp_path, None)) == 222


def test_numbers_are_no_words(tmp_path: Path) -> None:
    write_entry(tmp_path, 9999, flops(9), date=OLD, folder="A")
    write_entry(tmp_path, 10000, flops(10), date=OLD, folder="A")
    assert value_of(load_references(tmp_path, None)) == 10


def test_newest_counts_across_the_folders_of_several_machines(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, flops(2), folder="Windows-CPython-3.11-64bit")
    write_entry(tmp_path, 2, flops(1), folder="Linux-CPython-3.11-64bit")
    assert value_of(load_references(tmp_path, None)) == 1


def test_history_never_gates(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, flops(1), date=OLD)
    write_entry(tmp_path, 2, flops(2), date=NEW, role="history")
    assert value_of(load_references(tmp_path, None)) == 1


def test_without_an_entry_of_role_baseline_there_is_no_reference(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, flops(1), role="history")
    assert load_references(tmp_path, None) == {}


def test_each_case_is_judged_by_the_newest_entry_that_holds_it(tmp_path: Path) -> None:
    """An accept of a narrowed run renews its cases and leaves the others as they were."""
    write_entry(tmp_path, 1, flops(1), flops(1, FULL), date=OLD)
    write_entry(tmp_path, 2, flops(2), date=NEW, environment={"peft": "0.19.0"})
    references = load_references(tmp_path, None)
    assert (value_of(references, LORA), value_of(references, FULL)) == (2, 1)
    assert references[LORA].environment == {"peft": "0.19.0"}
    assert references[LORA].run_name == "0002_peft-0.18.1"
    assert references[FULL].run_name == "0001_peft-0.18.1"


# --- retired cases --------------------------------------------------------------------------


def test_a_retired_case_is_no_reference_and_the_others_stay(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, flops(1), flops(1, FULL), date=OLD)
    write_entry(tmp_path, 2, flops(2), date=NEW, retired=[FULL])
    assert load_references(tmp_path, None).keys() == {LORA}


def test_a_case_is_retired_by_number_and_not_by_date(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, flops(1), flops(2, FULL), date=NEW)
    write_entry(tmp_path, 2, flops(3), date=OLD, retired=[FULL])
    assert load_references(tmp_path, None).keys() == {LORA}


def test_a_retired_case_judges_again_once_it_is_accepted_again(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, flops(1, FULL), date=OLD)
    write_entry(tmp_path, 2, flops(2), date=OLD, retired=[FULL])
    write_entry(tmp_path, 3, flops(3, FULL), date=NEW)
    assert value_of(load_references(tmp_path, None), FULL) == 3


def test_an_entry_that_is_named_judges_by_what_it_holds_retired_or_not(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, flops(1, FULL), date=OLD)
    write_entry(tmp_path, 2, flops(2), date=NEW, retired=[FULL])
    assert value_of(load_references(tmp_path, "0001"), FULL) == 1


def test_globs_match_the_expected_cases(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, flops(1), flops(1, FULL), flops(1, GALORE))
    assert retirable_cases(read_contents(tmp_path), [FULL]) == [FULL]
    assert retirable_cases(read_contents(tmp_path), ["*/full/*", "shift/*"]) == [FULL, LORA]


@pytest.mark.parametrize("pattern", ["", "full", "SHIFT/*", GALORE, "shift/*/resnet50"])
def test_a_glob_that_matches_nothing_is_refused_with_some_cases(
    tmp_path: Path, pattern: str
) -> None:
    write_entry(tmp_path, 1, flops(1), flops(1, FULL), date=OLD)
    write_entry(tmp_path, 2, flops(1, GALORE), role="history")
    with pytest.raises(UnknownNameError, match=f"unknown case pattern .*Known: .*{FULL}"):
        retirable_cases(read_contents(tmp_path), ["shift/*", pattern])


def test_a_retired_case_cannot_be_retired_again(tmp_path: Path) -> None:
    write_entry(tmp_path, 1, flops(1), flops(1, FULL), date=OLD)
    write_entry(tmp_path, 2, flops(2), date=NEW, retired=[FULL])
    with pytest.raises(UnknownNameError, match="Known: shift/lora-r4/resnet18"):
        retirable_cases(read_contents(tmp_path), [FULL])


@pytest.mark.parametrize("selector", [None, "0002"])
def test_a_damaged_entry_is_refused(tmp_path: Path, selector: str | None) -> None:
    write_entry(tmp_path, 1)
    path = write_entry(tmp_path, 2)
    path.write_text(path.read_text()[:-100])
    with pytest.raises(RunFileError, match="not valid JSON"):
        load_references(tmp_path, selector)


def test_a_run_file_that_was_copied_in_without_accept_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "Linux" / "0001_copied.json")
    with pytest.raises(RunFileError, match="never accepted"):
        load_references(tmp_path, None)


def test_drift_counts_from_the_oldest_entry_unless_an_entry_is_named(
    tmp_path: Path,
) -> None:
    first = write_entry(tmp_path, 1, make_record(metrics={"peak_bytes": 100_000}), date=OLD)
    write_entry(tmp_path, 2, make_record(metrics={"peak_bytes": 100_001}), date=NEW)
    (origin,) = load_references(tmp_path, None)[LORA].drift_origins.items()
    assert (origin[0], origin[1].entry) == ("peak_bytes", "0001_peft-0.18.1")
    for selector in ("0002", str(first), str(tmp_path)):
        assert load_references(tmp_path, selector)[LORA].drift_origins == {}
