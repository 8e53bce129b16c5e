"""Run files: round trips, shared ledgers, every kind of damage."""

from __future__ import annotations

import errno
import json
import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from builders import (
    EARLIER_LEDGER,
    FULL,
    GALORE,
    LEDGER,
    LORA,
    UNSEEN_LORA,
    VALUES,
    make_document,
    make_metric,
    make_record,
    make_run,
    rich_run,
    write_old_run,
    write_run,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.errors import InputError, PeftRegressError, RunFileError
from peft_regress.metrics import Metric
from peft_regress.runs.json_layout import dump_json
from peft_regress.runs.run_file import read_run_file, run_document
from peft_regress.runs.schema import Acceptance, Failure, Record, Run, canonical_digest
from peft_regress.runs.shards import read_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from peft_regress.runs.schema import Role


DATE = "2026-01-01T00:00:00+00:00"


def signed(ours: dict[str, Any]) -> dict[str, Any]:
    """Return a run's object with a digest that fits its content, whatever that is."""
    content = {
        key: value for key, value in ours.items() if key not in {"content_digest", "ledgers"}
    }
    return {**ours, "content_digest": canonical_digest(content)}


# --- round trip -----------------------------------------------------------------------------


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    run = rich_run()
    read = read_run_file(write_run(tmp_path / "run.json", run))
    assert msgspec.structs.replace(read.run, content_digest="") == run
    assert read.document == make_document(run)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    st.dictionaries(
        st.sampled_from(sorted(VALUES)),
        st.integers(0, 2**64) | st.floats(0, 1e100) | st.sampled_from([0, 1, 1e22, 5e-324, 0.1]),
        min_size=1,
    ),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_numbers_and_any_text_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, metrics: dict[str, Any], text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    failing = make_record(FULL, status="error", error=Failure(type=text, message=text))
    run = make_run(make_record(LORA, metrics), failing)
    write_run(path, run)
    assert msgspec.structs.replace(read_run_file(path).run, content_digest="") == run


def test_samples_that_are_whole_numbers_are_read_back(tmp_path: Path) -> None:
    """They are read as floats; the digest must be that of what is read."""
    metric = Metric(value=1.5, unit="nat", direction="lower", kind="accuracy", samples=[1, [2, 3]])
    path = write_run(tmp_path / "run.json", make_run(make_record(LORA, {"loss": metric})))
    assert read_run_file(path).run.cases[LORA].metrics["loss"] == metric


def test_the_file_says_what_it_is_at_its_top_level(tmp_path: Path) -> None:
    document = json.loads(write_run(tmp_path / "run.json").read_text())
    assert document["peft_regress"]["schema_version"] == 2
    assert document["peft_regress"]["content_digest"].startswith("sha256:")
    assert document["peft_regress"]["cases"].keys() == {LORA}
    assert "accepted" not in document["peft_regress"]


def test_the_same_run_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / name, rich_run()) for name in ("a.json", "b.json"))
    assert first.read_bytes() == second.read_bytes()


def test_a_written_file_is_readable_by_others(tmp_path: Path) -> None:
    assert write_run(tmp_path / "run.json").stat().st_mode & 0o777 == 0o644


def test_folders_on_the_way_and_spaces_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "of runs" / "my run.json"
    assert read_run(write_run(path)).run.cases.keys() == {LORA}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_number_that_could_not_be_read_is_not_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "run.json"
    with pytest.raises(InputError, match="forward_flops"):
        write_run(path, make_run(make_record(LORA, {"forward_flops": value})))
    assert list(tmp_path.iterdir()) == []


# --- ledgers --------------------------------------------------------------------------------


def test_a_ledger_of_two_tasks_stands_in_the_file_once_and_in_memory_twice(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.json", rich_run())
    ours = json.loads(path.read_text())["peft_regress"]
    digest = ours["cases"][LORA]["ledger"]
    assert (
        digest == ours["cases"][UNSEEN_LORA]["ledger"] == canonical_digest(ours["ledgers"][digest])
    )
    assert set(ours["ledgers"][digest]) == {"modules", "optimizer_flops", "peak_phase"}
    assert len(ours["ledgers"]) == 2
    read = read_run_file(path).run
    assert read.cases[UNSEEN_LORA].ledger == read.cases[LORA].ledger == LEDGER


def test_a_file_with_its_ledgers_in_the_records_is_read_as_before(tmp_path: Path) -> None:
    read = read_run_file(write_old_run(tmp_path / "run.json")).run
    assert read.cases == rich_run().cases
    assert read_run_file(write_run(tmp_path / "again.json", read)).run.schema_version == 2


def test_without_its_ledgers_a_run_is_read_and_names_them(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.json", rich_run())
    record = read_run_file(path, ledgers=False).run.cases[LORA]
    assert record.ledger in json.loads(path.read_text())["peft_regress"]["ledgers"]
    assert record.metrics == rich_run().cases[LORA].metrics


def test_the_digest_is_that_of_what_stands_in_the_file(tmp_path: Path) -> None:
    ours = json.loads(write_run(tmp_path / "run.json", rich_run()).read_text())["peft_regress"]
    assert signed(ours) == ours


def test_ledgers_that_differ_are_both_kept(tmp_path: Path) -> None:
    other = msgspec.structs.replace(LEDGER, peak_phase={})
    run = make_run(make_record(LORA, ledger=LEDGER), make_record(UNSEEN_LORA, ledger=other))
    read = read_run_file(write_run(tmp_path / "run.json", run)).run
    assert [record.ledger for record in read] == [LEDGER, other]


def test_ledgers_that_hold_nothing_name_no_other(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.json", make_run(make_record(LORA), make_record(UNSEEN_LORA)))
    ours = json.loads(path.read_text())["peft_regress"]
    assert [record["ledger"] for record in ours["cases"].values()] == [{}, {}]
    assert "ledgers" not in ours


def test_a_module_of_a_ledger_is_a_line_of_the_file(tmp_path: Path) -> None:
    lines = write_run(tmp_path / "run.json", rich_run()).read_text().splitlines()
    (line,) = [line for line in lines if "conv1.base_layer" in line]
    assert json.loads("{" + line.strip().rstrip(",") + "}")["conv1.base_layer"]["high_bytes"]


@pytest.mark.parametrize("holder", ["no/such/case", UNSEEN_LORA, GALORE + "x"])
def test_a_ledger_that_is_said_to_be_where_it_is_not_is_refused(
    old_file: Path, holder: str
) -> None:
    def change(ours: dict[str, Any]) -> None:
        ours["cases"][UNSEEN_LORA]["ledger"] = {"same_as": holder}

    refused(changed(old_file, change), f"{UNSEEN_LORA}: its ledger refers to .*, which has")


def test_a_ledger_that_names_another_and_holds_something_is_refused(old_file: Path) -> None:
    def change(ours: dict[str, Any]) -> None:
        ours["cases"][UNSEEN_LORA]["ledger"]["optimizer_flops"] = {"aten.mul": 1}

    refused(changed(old_file, change), "its ledger refers to")


def test_two_ledgers_that_name_each_other_are_refused(old_file: Path) -> None:
    def change(ours: dict[str, Any]) -> None:
        ours["cases"][LORA]["ledger"] = {"same_as": UNSEEN_LORA}

    refused(changed(old_file, change), "its ledger refers to")


@pytest.mark.parametrize("number", [-1, 2**63, 1.5, "1", None, True])
def test_a_number_that_no_ledger_can_have_is_refused(run_file: Path, number: Any) -> None:
    def change(ours: dict[str, Any]) -> None:
        ledger_of(ours)["modules"][""]["high_bytes"]["activation"] = number

    refused(changed(run_file, change), "does not fit the schema")


def test_a_ledger_that_the_file_lacks_or_that_no_case_has_is_refused(run_file: Path) -> None:
    def change(ours: dict[str, Any]) -> None:
        ours["ledgers"].pop(ours["cases"][LORA]["ledger"])

    refused(changed(run_file, change), f"{LORA}: its ledger sha256:.* is not in the file")
    write_run(run_file, rich_run())

    def add(ours: dict[str, Any]) -> None:
        ours["ledgers"][canonical_digest({"peak_phase": {"a": "b"}})] = {"peak_phase": {"a": "b"}}

    refused(changed(run_file, add), "the ledger sha256:.* belongs to no case")


@pytest.mark.parametrize(
    "name", ["", "sha256:", "../../x", "sha256:" + "A" * 64, "sha256:" + "0" * 64 + "\n"]
)
def test_a_ledgers_address_is_a_digest_and_nothing_else(run_file: Path, name: str) -> None:
    def change(ours: dict[str, Any]) -> None:
        ours["cases"][LORA]["ledger"] = name

    refused(changed(run_file, change), "does not fit the schema")


def ledger_of(ours: dict[str, Any], case: str = LORA) -> dict[str, Any]:
    """Return the ledger of a case in the object of a file."""
    found: dict[str, Any] = ours["ledgers"][ours["cases"][case]["ledger"]]
    return found


EARLIER_RUN = """
{"schema_version": 1, "environment": {"peft": "0.14.0"},
 "machine": {"digest": "sha256:here", "cpu": "Example CPU", "cores": 2, "threads": 1,
  "instruction_set": "AVX2"},
 "selection": {"complete": true, "narrowed_by": [], "not_selected": []},
 "cases": {
  "shift/lora-r4/resnet18": {
   "case": {"task": "shift", "method": "lora", "architecture": "resnet18", "rank": 4},
   "definition": "sha256:definition", "status": "ok", "error": null,
   "metrics": {"forward_flops":
    {"value": 123, "unit": "flop", "direction": "lower", "kind": "exact"}},
   "invariants": {},
   "ledger": {"flops": {"forward": {"conv1": {"aten.convolution": 123}}},
    "bytes": {"param": {"": 456}}}},
  "shift/full/resnet18": {
   "case": {"task": "shift", "method": "full", "architecture": "resnet18", "rank": null},
   "definition": "sha256:definition", "status": "error",
   "error": {"type": "ValueError", "message": "no eligible module"},
   "metrics": {}, "invariants": {}, "ledger": {"flops": {}, "bytes": {}}}},
 "content_digest": "sha256:bb411165f50de24781d330f2b675f2fa6010239af91225fbe4d4a54919838ab4"}
"""
"""As version 0.1.0 wrote it before a ledger held batch 32, with the digest it gave."""


def test_a_file_with_the_ledger_of_before_is_still_what_its_digest_says(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(f'{{"peft_regress": {EARLIER_RUN}}}')
    ledger = read_run_file(path).run.cases[LORA].ledger
    assert ledger == EARLIER_LEDGER
    again = read_run_file(write_run(tmp_path / "again.json", read_run_file(path).run)).run
    assert again.cases[LORA].ledger == EARLIER_LEDGER


# --- damage ---------------------------------------------------------------------------------


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.json", rich_run())


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    return write_old_run(tmp_path / "run.json")


def refused(path: Path, match: str) -> None:
    """Check that a file is refused, by a message that names the file."""
    with pytest.raises(RunFileError, match=match) as caught:
        read_run_file(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def changed(path: Path, change: Callable[[dict[str, Any]], None], *, sign: bool = True) -> Path:
    """Change the object `peft_regress` of a file, by default with a digest that fits again."""
    document = json.loads(path.read_text())
    change(document["peft_regress"])
    if sign:
        document["peft_regress"] = signed(document["peft_regress"])
    path.write_text(json.dumps(document))
    return path


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such run file.*--regress-save"):
        read_run_file(tmp_path / "run.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b"\x00\xff\xfe\x80",
        b"{}x",
        b"\x1f\x8b\x08",
    ],
    ids=repr,
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    refused(path, "not valid JSON|not a JSON object")


def test_binary_garbage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(random.Random(0).randbytes(10_000))
    refused(path, "not valid JSON")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(run_file: Path, share: float) -> None:
    content = run_file.read_bytes()
    run_file.write_bytes(content[: int(share * len(content))])
    refused(run_file, "not valid JSON")


@pytest.mark.parametrize("marker", ["<<<<<<< HEAD", "||||||| 4b5c", "=======", ">>>>>>> theirs"])
def test_conflict_markers_are_named_with_line_and_remedy(run_file: Path, marker: str) -> None:
    lines = run_file.read_text().splitlines()
    run_file.write_text("\n".join([*lines[:5], marker, *lines[5:]]))
    refused(run_file, r"conflict markers \(line 6\).*git checkout --ours.*peft-regress accept")


AT_VALUE = rf'at \$.peft_regress.cases\["{LORA}"\].metrics.forward_flops.value'


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", '"1"', "null", "[1]"])
def test_what_is_no_number_is_refused_with_case_and_field(run_file: Path, number: str) -> None:
    run_file.write_text(run_file.read_text().replace("3638000000", number, 1))
    refused(run_file, AT_VALUE)


def test_a_negative_count_is_named_before_the_digest_that_it_breaks(run_file: Path) -> None:
    run_file.write_text(run_file.read_text().replace("3638000000", "-1", 1))
    refused(run_file, f"{LORA}: metric 'forward_flops' is -1, but a flop is never negative")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda ours: ours["cases"][GALORE].update(status=1), rf'cases\["{GALORE}"\].status'),
        (lambda ours: ours["environment"].update(peft=1), "environment.peft"),
        (lambda ours: ours["environment"].update({"a-b": 1}), r'environment\["a-b"\]'),
        (
            lambda ours: ours["cases"][LORA]["metrics"]["first_losses"]["samples"][1].append("x"),
            rf'cases\["{LORA}"\].metrics.first_losses.samples\[1\]\[4\]',
        ),
        (
            lambda ours: ledger_of(ours)["modules"]["conv1.base_layer"].update(a=1),
            r'ledgers\["sha256:\w+"\].modules\["conv1.base_layer"\]',
        ),
    ],
)
def test_what_does_not_fit_the_schema_is_named_to_the_last_key(
    run_file: Path, change: Any, place: str
) -> None:
    refused(changed(run_file, change), rf"at \$.peft_regress.{place}\.")


def test_a_number_that_no_float_can_hold_is_refused_in_pytest_benchmarks_part_too(
    run_file: Path,
) -> None:
    """It could be read, and not be written again by `accept`."""
    run_file.write_text(run_file.read_text().replace("0.05", "1e999", 1))
    refused(run_file, r"1e999 is not a finite number, at \$.benchmarks\[0\].stats")


@pytest.mark.parametrize(
    "change",
    [
        lambda ours: ours.update({"\n\x1b[31m" * 1000: 1}),
        lambda ours: ours.update(schema_version="x\n" * 1000),
        lambda ours: ours.update(schema_version=[["x\n"]] * 1000),
        lambda ours: ours["cases"].update({"x\n" * 1000: ours["cases"].pop(LORA)}),
        lambda ours: ours["cases"][LORA]["metrics"].update({"\n" * 1000: "no metric"}),
        lambda ours: ours["cases"][GALORE].update(error=None, status="ok\n" * 1000),
        lambda ours: ours.update(accepted={"reason": "r", "date": "\n" * 1000, "role": "baseline"}),
    ],
)
def test_whatever_a_file_holds_the_message_is_one_short_line(run_file: Path, change: Any) -> None:
    refused_in_a_line(changed(run_file, change))


def test_a_digest_that_is_anything_at_all_is_refused_in_one_short_line(run_file: Path) -> None:
    digest = "\x1b" + "x\n" * 1000
    path = changed(run_file, lambda ours: ours.update(content_digest=digest), sign=False)
    refused_in_a_line(path)


def refused_in_a_line(path: Path) -> None:
    with pytest.raises(RunFileError) as caught:
        read_run_file(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700 + 2 * len(str(path))


def test_the_remedy_can_be_typed_whatever_the_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "my run;\n.json"
    path.write_text("{}")
    with pytest.raises(RunFileError) as caught:
        read_run_file(path)
    assert str(caught.value).isprintable()
    path = tmp_path / "my run.json"
    path.write_text("{")
    refused(path, re.escape(f"`git checkout -- '{path}'`"))


@pytest.mark.parametrize("key", ["schema_version", "cases", "machine"])
def test_a_key_that_stands_twice_is_refused(run_file: Path, key: str) -> None:
    text = run_file.read_text()
    run_file.write_text(text.replace(f'"{key}":', f'"{key}": 1, "{key}":', 1))
    refused(run_file, f"'{key}' occurs twice")


def test_a_metric_that_stands_twice_is_refused_with_its_case(run_file: Path) -> None:
    run_file.write_text(run_file.read_text().replace('"accuracy"', '"loss"', 1))
    refused(run_file, rf"'loss' occurs twice in one object, at .*{LORA}.*metrics")


def test_a_case_that_stands_twice_is_refused(run_file: Path) -> None:
    text = run_file.read_text()
    assert text.count(f'"{FULL}": {{') == 1
    run_file.write_text(text.replace(f'"{FULL}": {{', f'"{LORA}": {{', 1))
    refused(run_file, "occurs twice")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_is_refused(run_file: Path, number: str) -> None:
    run_file.write_text(run_file.read_text().replace("3638000000", number))
    refused(run_file, "is not a JSON number")


@pytest.mark.parametrize(
    "number", ["1e999", "-1e999", "-1", "1e101", "1" + 400 * "0", '"1"', "null", "true", "[1]"]
)
def test_a_wrong_number_is_refused_even_if_the_digest_fits(run_file: Path, number: str) -> None:
    value = json.loads(number)

    def change(ours: dict[str, Any]) -> None:
        ours["cases"][LORA]["metrics"]["forward_flops"]["value"] = value

    path = changed(run_file, change)
    path.write_text(path.read_text().replace("Infinity", "1e999"))
    refused(path, "not a finite number|never negative|Expected")


def test_a_number_of_thousands_of_digits_is_refused(run_file: Path) -> None:
    run_file.write_text(run_file.read_text().replace("3638000000", "1" * 5000))
    refused(run_file, "not valid JSON")


@pytest.mark.parametrize(
    "samples", [[True], [[True]], ["x"], [10**400], [[1e200]], {"a": 1}], ids=str
)
def test_wrong_samples_are_refused(run_file: Path, samples: Any) -> None:
    def change(ours: dict[str, Any]) -> None:
        ours["cases"][LORA]["metrics"]["loss"]["samples"] = samples

    refused(changed(run_file, change), "does not fit the schema|not a finite number")


@pytest.mark.parametrize("new", ["3638000001", "3638000000.0", "0"])
def test_an_altered_number_is_refused(run_file: Path, new: str) -> None:
    text = run_file.read_text()
    assert "3638000000" in text
    run_file.write_text(text.replace("3638000000", new, 1))
    refused(run_file, "was altered .*content_digest")


@pytest.mark.parametrize(
    "change",
    [
        lambda ours: ours["cases"].pop(FULL),
        lambda ours: ours["environment"].update(peft="0.1"),
        lambda ours: ours["machine"].update(digest="sha256:x"),
        lambda ours: ours["cases"][LORA].update(definition="sha256:x"),
        lambda ours: ours["cases"][GALORE].update(status="unsupported"),
        lambda ours: ours["cases"][LORA]["invariants"].update(frozen=True),
        lambda ours: ledger_of(ours)["modules"][""].update(optimizer_flops=1),
        lambda ours: ledger_of(ours)["peak_phase"].update(peak_bytes="forward"),
        lambda ours: ours["cases"][UNSEEN_LORA].update(ledger=ours["cases"][FULL]["ledger"]),
        lambda ours: ledger_of(ours, FULL)["bytes"]["param"].update({"": 1}),
        lambda ours: ours["selection"].update(complete=True),
        lambda ours: ours.update(accepted={"reason": "r", "date": DATE, "role": "baseline"}),
        lambda ours: ours.update(content_digest=""),
        lambda ours: ours.pop("content_digest"),
        lambda ours: ours.update(content_digest="sha256:" + 64 * "0"),
    ],
)
def test_anything_altered_is_refused(run_file: Path, change: Any) -> None:
    refused(changed(run_file, change, sign=False), "was altered|belongs to no case")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda ours: ours.update(surprise=1), "surprise"),
        (lambda ours: ours["machine"].update(host="mine"), "host"),
        (lambda ours: ours["selection"].update(surprise=1), "surprise"),
        (lambda ours: ours["cases"][LORA].update(surprise=1), "surprise"),
        (lambda ours: ours["cases"][LORA]["case"].update(surprise=1), "surprise"),
        (lambda ours: ours["cases"][LORA]["metrics"]["loss"].update(surprise=1), "surprise"),
        (lambda ours: ledger_of(ours).update(surprise={}), "surprise"),
        (lambda ours: ledger_of(ours)["modules"][""].update(surprise=1), "surprise"),
        (lambda ours: ours["cases"][GALORE]["error"].update(surprise=1), "surprise"),
        (
            lambda ours: ours.update(
                accepted={"reason": "r", "date": DATE, "role": "baseline", "surprise": 1}
            ),
            "surprise",
        ),
    ],
)
def test_an_unknown_key_is_refused_by_its_name(run_file: Path, change: Any, key: str) -> None:
    refused(changed(run_file, change), f"unknown field `{key}`")


@pytest.mark.parametrize("key", ["environment", "machine", "selection", "cases"])
def test_a_key_that_is_missing_is_named(run_file: Path, key: str) -> None:
    refused(changed(run_file, lambda ours: ours.pop(key)), f"missing required field `{key}`")


@pytest.mark.parametrize(
    ("version", "message", "remedy"),
    [
        (3, "newer than 2", "Upgrade"),
        (10**30, "newer than 2", "Upgrade"),
        (0, "older than 1", "accept"),
        (-1, "older than 1", "accept"),
        (None, "has no schema_version", "again"),
        ("1", "has schema_version '1'", "again"),
        (1.0, r"has schema_version 1\.0", "again"),
        (True, "has schema_version True", "again"),
    ],
)
def test_each_wrong_schema_version_has_its_message_and_remedy(
    run_file: Path, version: Any, message: str, remedy: str
) -> None:
    path = changed(run_file, lambda ours: ours.update(schema_version=version))
    refused(path, message)
    with pytest.raises(RunFileError, match=remedy):
        read_run_file(path)


def test_an_absent_schema_version_is_named(run_file: Path) -> None:
    refused(changed(run_file, lambda ours: ours.pop("schema_version")), "no schema_version")


def test_a_newer_schema_is_named_before_its_unknown_keys(run_file: Path) -> None:
    path = changed(run_file, lambda ours: ours.update(schema_version=2, surprise=1))
    refused(path, "newer")


def test_a_plain_pytest_benchmark_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(make_document(make_run())))
    refused(path, "not a run file of this tool")


@pytest.mark.parametrize("ours", [None, [], "text", 1])
def test_an_object_that_is_none_is_refused(tmp_path: Path, ours: Any) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"peft_regress": ours}))
    refused(path, "no object 'peft_regress'")


@pytest.mark.parametrize(("key", "value"), [("benchmarks", {}), ("machine_info", [1])])
def test_a_wrong_pytest_benchmark_part_is_refused(run_file: Path, key: str, value: Any) -> None:
    document = json.loads(run_file.read_text())
    run_file.write_text(json.dumps({**document, key: value}))
    refused(run_file, key)


def test_a_record_under_another_id_is_refused(run_file: Path) -> None:
    def change(ours: dict[str, Any]) -> None:
        ours["cases"]["shift/lora-r8/resnet18"] = ours["cases"].pop(LORA)

    refused(changed(run_file, change), f"has the record of '{LORA}'")


def test_text_that_is_not_unicode_is_refused(run_file: Path) -> None:
    run_file.write_text(run_file.read_text().replace('"Example CPU"', '"\\ud800"'))
    refused(run_file, r"not Unicode, at \$.peft_regress.machine.cpu")


@pytest.mark.parametrize("old", ["3638000000", '"flop"', '"rank"'])
def test_text_that_is_not_unicode_is_refused_where_no_text_can_stand(
    run_file: Path, old: str
) -> None:
    run_file.write_text(run_file.read_text().replace(old, '"\\ud800"', 1))
    refused(run_file, rf"not Unicode, at \$.peft_regress.cases\[\"{LORA}\"\]")


@pytest.mark.parametrize("depth", [500, 100_000])
@pytest.mark.parametrize("pair", [("[", "]"), ('{"a": ', "}")], ids=["lists", "objects"])
def test_deep_nesting_is_refused(run_file: Path, depth: int, pair: tuple[str, str]) -> None:
    nested = depth * pair[0] + "1" + depth * pair[1]
    run_file.write_text(run_file.read_text().replace("3638000000", nested))
    refused(run_file, "not valid JSON|does not fit the schema")


def test_a_fifo_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    refused(tmp_path / "run.json", "not valid JSON")
    with pytest.raises(RunFileError, match="not valid JSON"):
        read_run(tmp_path)


def test_what_a_command_writes_into_a_fifo_is_read(tmp_path: Path, run_file: Path) -> None:
    """As in `peft-regress compare <(git show HEAD:run.json) run.json`."""
    reader, writer = os.pipe()
    content = run_file.read_bytes()
    try:
        with ThreadPoolExecutor(1) as pool:
            read = pool.submit(read_run_file, Path(f"/dev/fd/{reader}"))
            with os.fdopen(writer, "wb") as stream:
                stream.write(content)
            assert read.result(timeout=30).run == read_run_file(run_file).run
    finally:
        os.close(reader)


def test_what_never_ends_is_refused() -> None:
    refused(Path("/dev/zero"), "larger than")


def test_a_file_that_may_not_be_read_is_refused(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # By a patch, since the permissions of a file mean nothing to root.
    monkeypatch.setattr("builtins.open", denied)
    refused(run_file, r"cannot be read \(Permission denied\)")


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "cannot be read")


def test_another_format_and_order_of_keys_is_the_same_content(run_file: Path) -> None:
    def reversed_keys(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reversed_keys(value[key]) for key in reversed(value)}
        return [reversed_keys(item) for item in value] if isinstance(value, list) else value

    before = read_run_file(run_file).run
    document = json.loads(run_file.read_text())
    for indent in (None, 4):
        run_file.write_text(json.dumps(reversed_keys(document), indent=indent))
        assert read_run_file(run_file).run == before


def test_other_line_ends_are_the_same_content(run_file: Path) -> None:
    """As git makes them on Windows."""
    before = read_run_file(run_file).run
    run_file.write_bytes(run_file.read_bytes().replace(b"\n", b"\r\n"))
    assert read_run_file(run_file).run == before


def test_a_mark_of_the_byte_order_is_no_content(run_file: Path) -> None:
    before = read_run_file(run_file).run
    run_file.write_bytes(run_file.read_text().encode("utf-8-sig"))
    assert read_run_file(run_file).run == before


def test_another_encoding_is_refused(run_file: Path) -> None:
    run_file.write_bytes(run_file.read_text().encode("utf-16"))
    with pytest.raises(RunFileError, match="is not valid JSON"):
        read_run_file(run_file)


VALID = dump_json(run_document(rich_run(), make_document(rich_run()))).encode()
DIGEST = json.loads(VALID)["peft_regress"]["content_digest"]
RUN = msgspec.structs.replace(rich_run(), content_digest=DIGEST)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.data())
def test_whatever_bytes_change_the_file_is_refused_or_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(VALID)
    places = st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(places)
        end = start + data.draw(st.sampled_from([0, 1, 1, 2, 50]))
        content[start:end] = data.draw(
            st.binary(max_size=3)
            | st.sampled_from([b"1e999", b"NaN", b'"', b"{", b"\\ud800", b"-"])
        )
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_bytes(content)
    try:
        run = read_run_file(path).run
    except PeftRegressError:
        return
    assert run == RUN


def _spots(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) in a JSON value."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    inner = [spot for _, item in pairs if isinstance(item, dict | list) for spot in _spots(item)]
    return [(value, key) for key, _ in pairs] + inner


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.integers(min_value=0),
    st.sampled_from(
        [None, True, -1, 0, 1.5, 10**25, 10**400, 1e308, "", "x", [], {}, [[]], {"a": 1}]
    ),
)
def test_whatever_value_changes_under_a_fitting_digest_the_file_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, where: int, value: Any
) -> None:
    document = json.loads(VALID)
    spots = _spots(document["peft_regress"])
    container, key = spots[where % len(spots)]
    container[key] = value
    document["peft_regress"] = signed(document["peft_regress"])
    path = tmp_path_factory.getbasetemp() / "signed.json"
    path.write_text(json.dumps(document))
    try:
        run = read_run_file(path).run
    except PeftRegressError:
        return
    assert isinstance(run, Run)


@pytest.mark.parametrize("date", ["", "yesterday", "2026-01-02", "2026-01-02T03:04:05"])
def test_a_date_that_is_no_moment_is_refused(tmp_path: Path, date: str) -> None:
    accepted = Acceptance(reason="r", date=date, role="baseline")
    path = write_run(tmp_path / "run.json", make_run(accepted=accepted))
    with pytest.raises(RunFileError, match="ISO 8601"):
        read_run_file(path)


@pytest.mark.parametrize(("role", "retired"), [("baseline", [FULL, LORA]), ("history", [FULL])])
def test_a_retirement_that_contradicts_the_run_is_refused(
    tmp_path: Path, role: Role, retired: list[str]
) -> None:
    accepted = Acceptance(reason="r", date=DATE, role=role, retired=retired)
    path = write_run(tmp_path / "run.json", make_run(accepted=accepted))
    with pytest.raises(RunFileError, match="retire"):
        read_run_file(path)


@pytest.mark.parametrize(
    "record",
    [
        make_record(error=Failure(type="ValueError", message="m")),
        msgspec.structs.replace(make_record(status="error"), error=None),
        make_record(metrics={}),
        make_record(
            metrics={
                "accuracy": msgspec.structs.replace(make_metric("accuracy", [0.9, 0.7]), value=0.1)
            }
        ),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(tmp_path: Path, record: Record) -> None:
    path = write_run(tmp_path / "run.json", make_run(record))
    with pytest.raises(RunFileError, match=re.escape(record.case.id)):
        read_run_file(path)
