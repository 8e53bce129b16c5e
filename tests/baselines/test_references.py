"""What a case is judged by: the newest entry by number, never history, or what was named."""

import pytest
from builders import FULL, LORA, make_record, make_run, write_entry, write_run

from peft_regress.baselines.named_runs import find_input, find_named, load_references, named_case
from peft_regress.errors import AbsentError, InputError, RunFileError

OLD, NEW = "2026-01-01T00:00:00+00:00", "2026-06-01T00:00:00+00:00"


def flops(value, identifier=LORA):
    return make_record(identifier, {"forward_flops": value})


def values(references):
    return {name: one.record.metrics["forward_flops"].value for name, one in references.items()}


def test_without_entries_there_is_no_reference(tmp_path):
    assert load_references(tmp_path, None) == load_references(tmp_path / "nowhere", None) == {}


ENTRIES = {
    "number, not date": ([{LORA: 1, "date": NEW}, {LORA: 2, "date": OLD}], {LORA: 2}),
    "numbers are no words": ([{LORA: 9, "number": 9999}, {LORA: 10, "number": 10_000}], {LORA: 10}),
    "any folder": ([{LORA: 2, "folder": "Windows"}, {LORA: 1, "folder": "Linux"}], {LORA: 1}),
    "never history": ([{LORA: 1}, {LORA: 2, "role": "history"}], {LORA: 1}),
    "history alone": ([{LORA: 1, "role": "history"}], {}),
    "newest that holds it": ([{LORA: 1, FULL: 1}, {LORA: 2}], {LORA: 2, FULL: 1}),
    "retired": ([{LORA: 1, FULL: 1}, {LORA: 2, "retired": [FULL]}], {LORA: 2}),
    "retired by number": (
        [{LORA: 1, FULL: 1, "date": NEW}, {LORA: 2, "retired": [FULL], "date": OLD}],
        {LORA: 2},
    ),
    "accepted again": ([{FULL: 1}, {LORA: 2, "retired": [FULL]}, {FULL: 3}], {LORA: 2, FULL: 3}),
}
"""Entries in their order, and what judges after them."""


@pytest.mark.parametrize(("entries", "judges"), ENTRIES.values(), ids=list(ENTRIES))
def test_each_case_is_judged_by_the_newest_entry_that_holds_it(tmp_path, entries, judges):
    for number, given in enumerate(entries, start=1):
        cases = {name: value for name, value in given.items() if "/" in name}
        how = {name: value for name, value in given.items() if "/" not in name}
        number = how.pop("number", number)  # noqa: PLW2901
        write_entry(tmp_path, number, *(flops(value, name) for name, value in cases.items()), **how)
    assert values(load_references(tmp_path, None)) == judges


def test_a_damaged_entry_or_one_copied_in_without_accept_is_refused(tmp_path):
    path = write_entry(tmp_path, 1)
    path.write_text(path.read_text()[:-100])
    for selector in (None, "0001"):
        with pytest.raises(RunFileError, match="not valid JSON"):
            load_references(tmp_path, selector)
    write_run(path)
    with pytest.raises(RunFileError, match="never accepted"):
        load_references(tmp_path, None)


def test_drift_counts_from_the_oldest_entry_unless_an_entry_is_named(tmp_path):
    first = write_entry(tmp_path, 1, make_record(metrics={"peak_bytes": 100_000}))
    write_entry(tmp_path, 2, make_record(metrics={"peak_bytes": 100_001}))
    (origin,) = load_references(tmp_path, None)[LORA].drift_origins.items()
    assert (origin[0], origin[1].entry) == ("peak_bytes", "0001_peft-0.18.1")
    for selector in ("0002", str(first), str(tmp_path)):
        assert load_references(tmp_path, selector)[LORA].drift_origins == {}


def test_a_name_is_an_entry_a_run_file_shards_or_another_storage(tmp_path):
    root, run = tmp_path / "b", tmp_path / "my runs" / "a run.json"
    write_entry(root, 1, flops(1))
    write_entry(root, 2, flops(2), retired=["a/b/c"])
    for name in ("0001", "0001_peft-0.18.1", "0001_peft-0.18.1.json"):
        assert values(load_references(root, name)) == {LORA: 1}
    write_run(run, make_run(flops(7)))
    references = load_references(root, str(run))
    assert (values(references), references[LORA].run_name) == ({LORA: 7}, str(run))
    write_run(run.with_name("2.json"), make_run(flops(8, FULL)))
    assert values(load_references(root, str(run.parent))) == {LORA: 7, FULL: 8}
    write_entry(tmp_path / "other", 1, flops(3))
    write_entry(tmp_path / "other", 2, flops(4), role="history")
    assert values(load_references(root, str(tmp_path / "other"))) == {LORA: 3}
    for name in (str(run), str(run.parent), "0002"):
        assert LORA in find_input(root, name).read().run.cases
    with pytest.raises(InputError, match=r"b: is a baseline storage\. Name a run file or one"):
        find_input(tmp_path, str(root)).read()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(
            (name, r"is no file and no entry .*0001_peft-0\.18\.1")
            for name in ("0007", "1", "peft-0.18.1", "no/such/file.json", "x" * 300)
        ),
        ("", "the name is empty"),
    ],
)
def test_a_name_that_fits_nothing_is_refused_with_the_known_ones(tmp_path, name, message):
    write_entry(tmp_path, 1)
    with pytest.raises(InputError, match=message):
        load_references(tmp_path, name)


def test_a_name_of_nothing_is_absent_and_as_an_input_wrong_use(tmp_path):
    for find, error in ((find_named, AbsentError), (find_input, InputError)):
        with pytest.raises(error, match=r"Entries: none.*Make a run file with `pytest SUITE"):
            find(tmp_path, "run.json")


def test_a_case_that_is_not_there_is_absent_with_the_closest_ones(tmp_path):
    write_entry(tmp_path, 1, flops(1), flops(1, FULL))
    assert named_case(tmp_path, "0001", LORA).record == flops(1)
    with pytest.raises(AbsentError, match=f"0001 holds no case .*; it holds 2. There are: {LORA}"):
        named_case(tmp_path, "0001", LORA.replace("18", "50"))
    with pytest.raises(InputError, match="is not a case id"):
        named_case(tmp_path, "0001", "lora")
