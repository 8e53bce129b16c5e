"""Run files and the storage: round trips, atomic writes, every kind of damage, unions."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from builders import (
    FULL,
    GALORE,
    LORA,
    OTHER_MACHINE,
    VALUES,
    make_document,
    make_metric,
    make_record,
    make_run,
    write_entry,
    write_run,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.errors import InputError, PeftRegressError, RunFileError
from peft_regress.records import (
    MIXED_MACHINES,
    Acceptance,
    Failure,
    Ledger,
    Metric,
    Record,
    Run,
    Selection,
    canonical_digest,
)
from peft_regress.store import (
    accept_run,
    baseline_files,
    dump_json,
    read_run,
    read_run_file,
    read_runs,
    run_document,
    write_atomic,
    write_run_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DATE = "2026-01-01T00:00:00+00:00"


def rich_run() -> Run:
    """Return a run that has something in every field."""
    return make_run(
        make_record(
            LORA,
            invariants={"identity": True, "frozen": False, "merge": None},
            ledger=Ledger(
                flops={"forward": {"conv1": {"convolution": 123}}}, bytes={"param": {"": 456}}
            ),
        ),
        make_record(FULL),
        make_record(GALORE, status="error", error=Failure(type="KeyError", message='"é\n\x1b[0m')),
        selection=Selection(complete=False, narrowed_by=["-k 'x y'"], not_selected=["a/b/c"]),
    )


def signed(ours: dict[str, Any]) -> dict[str, Any]:
    """Return a run's object with a digest that fits its content, whatever that is."""
    content = {key: value for key, value in ours.items() if key != "content_digest"}
    return {**content, "content_digest": canonical_digest(content)}


# --- round trip -----------------------------------------------------------------------------


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    run = rich_run()
    read = read_run_file(write_run(tmp_path / "run.json", run))
    assert msgspec.structs.replace(read.run, content_digest="") == run
    assert read.document == make_document(run)


@settings(deadline=None, derandomize=True, max_examples=60)
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
    run = make_run(make_record(LORA, metrics), failing, environment={text: text})
    write_run(path, run)
    assert msgspec.structs.replace(read_run_file(path).run, content_digest="") == run


def test_samples_that_are_whole_numbers_are_read_back(tmp_path: Path) -> None:
    """They are read as floats; the digest must be that of what is read."""
    metric = Metric(value=1.5, unit="nat", direction="lower", kind="accuracy", samples=[1, [2, 3]])
    path = write_run(tmp_path / "run.json", make_run(make_record(LORA, {"loss": metric})))
    assert read_run_file(path).run.cases[LORA].metrics["loss"] == metric


def test_the_file_says_what_it_is_at_its_top_level(tmp_path: Path) -> None:
    document = json.loads(write_run(tmp_path / "run.json").read_text())
    assert document["peft_regress"]["schema_version"] == 1
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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=60)
@given(json_values)
def test_formatted_json_is_the_same_json(value: Any) -> None:
    assert json.loads(dump_json(value)) == value
    assert dump_json(value).isascii()


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.dictionaries(st.integers(), st.text(min_size=60), min_size=3))
def test_formatted_json_has_string_keys_alone(value: dict[int, str]) -> None:
    """pytest-benchmark's part may hold a user's `extra_info` with whole numbers as keys."""
    assert json.loads(dump_json(value)) == {str(key): text for key, text in value.items()}


def test_formatted_json_breaks_what_is_long_and_only_that() -> None:
    text = dump_json({"short": [1, 2, 3], "long": list(range(100))})
    assert '"short": [1, 2, 3],\n' in text
    assert max(map(len, text.splitlines())) <= 140


# --- atomic writing -------------------------------------------------------------------------


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("function", ["replace", "fsync", "chmod", "fdopen"])
@pytest.mark.parametrize(
    ("failure", "expected"), [(full_disk, InputError), (interrupt, KeyboardInterrupt)]
)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    failure: Callable[..., None],
    expected: type[BaseException],
) -> None:
    path = write_run(tmp_path / "run.json")
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(f"os.{function}", failure)
        with pytest.raises(expected):
            write_run(path, rich_run())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InputError, match=r"run\.json: cannot be written \(No space left.*Free"):
        write_atomic(tmp_path / "run.json", b"{}")


def test_a_folder_cannot_be_written_over(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path, b"{}")


def test_a_folder_that_is_a_file_is_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "run.json", b"{}")


# --- damage ---------------------------------------------------------------------------------


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.json", rich_run())


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


@pytest.mark.parametrize("marker", ["<<<<<<< HEAD", "=======", ">>>>>>> theirs"])
def test_conflict_markers_are_named(run_file: Path, marker: str) -> None:
    lines = run_file.read_text().splitlines()
    run_file.write_text("\n".join([*lines[:5], marker, *lines[5:]]))
    refused(run_file, "conflict markers")


@pytest.mark.parametrize("key", ["schema_version", "cases", "machine"])
def test_a_key_that_stands_twice_is_refused(run_file: Path, key: str) -> None:
    text = run_file.read_text()
    run_file.write_text(text.replace(f'"{key}":', f'"{key}": 1, "{key}":', 1))
    refused(run_file, f"'{key}' stands twice")


def test_a_case_that_stands_twice_is_refused(run_file: Path) -> None:
    text = run_file.read_text()
    assert text.count(f'"{FULL}": {{') == 1
    run_file.write_text(text.replace(f'"{FULL}": {{', f'"{LORA}": {{', 1))
    refused(run_file, "stands twice")


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
    run_file.write_text(text.replace("3638000000", new))
    refused(run_file, "was altered .*content_digest")


@pytest.mark.parametrize(
    "change",
    [
        lambda ours: ours["cases"].pop(LORA),
        lambda ours: ours["environment"].update(peft="0.1"),
        lambda ours: ours["machine"].update(digest="sha256:x"),
        lambda ours: ours["cases"][LORA].update(definition="sha256:x"),
        lambda ours: ours["cases"][GALORE].update(status="unsupported"),
        lambda ours: ours["cases"][LORA]["invariants"].update(frozen=True),
        lambda ours: ours["cases"][LORA]["ledger"]["bytes"]["param"].update({"": 1}),
        lambda ours: ours["selection"].update(complete=True),
        lambda ours: ours.update(accepted={"reason": "r", "date": DATE, "role": "baseline"}),
        lambda ours: ours.update(content_digest=""),
        lambda ours: ours.pop("content_digest"),
        lambda ours: ours.update(content_digest="sha256:" + 64 * "0"),
    ],
)
def test_anything_altered_is_refused(run_file: Path, change: Any) -> None:
    refused(changed(run_file, change, sign=False), "was altered")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda ours: ours.update(surprise=1), "surprise"),
        (lambda ours: ours["machine"].update(host="mine"), "host"),
        (lambda ours: ours["selection"].update(surprise=1), "surprise"),
        (lambda ours: ours["cases"][LORA].update(surprise=1), "surprise"),
        (lambda ours: ours["cases"][LORA]["case"].update(surprise=1), "surprise"),
        (lambda ours: ours["cases"][LORA]["metrics"]["loss"].update(surprise=1), "surprise"),
        (lambda ours: ours["cases"][LORA]["ledger"].update(surprise={}), "surprise"),
        (lambda ours: ours["cases"][GALORE]["error"].update(surprise=1), "surprise"),
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
        (2, "newer than 1", "Upgrade"),
        (10**30, "newer than 1", "Upgrade"),
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

    refused(changed(run_file, change), f"holds the record of '{LORA}'")


def test_text_that_is_not_unicode_is_refused(run_file: Path) -> None:
    run_file.write_text(run_file.read_text().replace('"Example CPU"', '"\\ud800"'))
    refused(run_file, "not Unicode")


@pytest.mark.parametrize("depth", [500, 100_000])
@pytest.mark.parametrize("pair", [("[", "]"), ('{"a": ', "}")], ids=["lists", "objects"])
def test_deep_nesting_is_refused(run_file: Path, depth: int, pair: tuple[str, str]) -> None:
    nested = depth * pair[0] + "1" + depth * pair[1]
    run_file.write_text(run_file.read_text().replace("3638000000", nested))
    refused(run_file, "not valid JSON|does not fit the schema")


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


VALID = dump_json(run_document(rich_run(), make_document(rich_run()))).encode()
RUN = msgspec.convert(json.loads(VALID)["peft_regress"], Run)


@settings(deadline=None, derandomize=True, max_examples=300)
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


@settings(deadline=None, derandomize=True, max_examples=150)
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


# --- folders --------------------------------------------------------------------------------

BOTH = {LORA, FULL}


def shard(index: int, record: Any, *, complete: bool = False, **more: Any) -> Run:
    """Return a shard that measured one of two cases."""
    selection = Selection(
        complete=complete,
        narrowed_by=[f"--regress-shard {index}/2"],
        not_selected=sorted(BOTH - {record.case.id}),
    )
    return make_run(record, selection=selection, **more)


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


def test_a_case_in_two_files_is_refused_with_both_names(tmp_path: Path) -> None:
    write_run(tmp_path / "1.json")
    write_run(tmp_path / "2.json")
    with pytest.raises(InputError, match=rf"case {LORA} stands in 1\.json and in 2\.json"):
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
    with pytest.raises(InputError, match="holds no run file"):
        read_run(tmp_path)


def test_one_damaged_file_fails_the_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "1.json")
    (tmp_path / "2.json").write_text("{}")
    with pytest.raises(RunFileError):
        read_run(tmp_path)


# --- the storage ----------------------------------------------------------------------------


def test_accept_stores_the_run_under_machine_number_and_peft(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json", rich_run())
    stored = accept_run(source, root=tmp_path / "b", reason="peft 0.18", date=DATE)
    assert stored == tmp_path / "b" / "Linux-CPython-3.11-64bit" / "0001_peft-0.18.1.json"
    run = read_run_file(stored).run
    assert run.accepted == Acceptance(reason="peft 0.18", date=DATE, role="baseline")
    assert run.cases == rich_run().cases
    assert run.selection == rich_run().selection


def test_accept_leaves_the_run_file_alone(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json")
    before = source.read_bytes()
    accept_run(source, root=tmp_path / "b", reason="r", date=DATE)
    assert source.read_bytes() == before


def test_accept_for_history_says_so(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json")
    stored = accept_run(source, root=tmp_path, reason="r", date=DATE, history=True)
    accepted = read_run_file(stored).run.accepted
    assert accepted is not None
    assert accepted.role == "history"


def test_accepting_an_entry_again_makes_a_new_entry(tmp_path: Path) -> None:
    """As when an entry of role history shall gate after all."""
    source = write_entry(tmp_path, 1, role="history")
    before = source.read_bytes()
    stored = accept_run(source, root=tmp_path, reason="now it gates", date=DATE)
    assert stored.name == "0002_peft-0.18.1.json"
    accepted = read_run_file(stored).run.accepted
    assert accepted is not None
    assert (accepted.role, accepted.reason) == ("baseline", "now it gates")
    assert source.read_bytes() == before


def test_numbers_go_on_from_the_highest_of_any_machine(tmp_path: Path) -> None:
    write_entry(tmp_path, 7, folder="Windows-CPython-3.11-64bit")
    write_entry(tmp_path, 12_345)
    source = write_run(tmp_path / "run.json")
    stored = accept_run(source, root=tmp_path, reason="r", date=DATE)
    assert stored.name.startswith("12346_")
    assert [path.name[:5] for path in baseline_files(tmp_path)] == ["0007_", "12345", "12346"]


def test_accept_of_shards_keeps_every_timed_entry(tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "1.json", shard(1, make_record(LORA)))
    write_run(tmp_path / "s" / "2.json", shard(2, make_record(FULL)))
    stored = read_run_file(accept_run(tmp_path / "s", root=tmp_path / "b", reason="r", date=DATE))
    assert stored.run.cases.keys() == BOTH
    assert [entry["param"] for entry in stored.document["benchmarks"]] == [LORA, FULL]


@pytest.mark.parametrize("reason", ["", " ", "\n\t"])
def test_accept_without_a_reason_is_refused(tmp_path: Path, reason: str) -> None:
    source = write_run(tmp_path / "run.json")
    with pytest.raises(InputError, match="--reason"):
        accept_run(source, root=tmp_path / "b", reason=reason, date=DATE)
    assert not (tmp_path / "b").exists()


def test_accept_of_a_run_without_cases_is_refused(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json", msgspec.structs.replace(make_run(), cases={}))
    with pytest.raises(InputError, match="holds no case"):
        accept_run(source, root=tmp_path / "b", reason="r", date=DATE)


def test_accept_of_a_damaged_run_stores_nothing(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json")
    source.write_text(source.read_text().replace("3638000000", "1"))
    with pytest.raises(RunFileError):
        accept_run(source, root=tmp_path / "b", reason="r", date=DATE)
    assert not (tmp_path / "b").exists()


def test_accept_into_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json")
    (tmp_path / "b").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        accept_run(source, root=tmp_path / "b", reason="r", date=DATE)


def test_accept_without_pytest_benchmarks_part_stores_a_file_that_reads(tmp_path: Path) -> None:
    source = tmp_path / "s" / "run.json"
    write_run_file(source, make_run(), {})
    for path in (source, source.parent):
        assert read_run_file(accept_run(path, root=tmp_path / "b", reason="r", date=DATE)).run.cases


@pytest.mark.parametrize(
    ("info", "folder"),
    [
        ({"system": "../..", "python_version": "3.12.1"}, "..-..-CPython-3.12-64bit"),
        ({"system": "a b/c", "machine": "armv7l"}, "a-b-c-CPython-0.0-32bit"),
        ({}, "Unknown-CPython-0.0-64bit"),
    ],
)
def test_a_strange_machine_stays_inside_the_storage(
    tmp_path: Path, info: dict[str, str], folder: str
) -> None:
    source, root = tmp_path / "run.json", tmp_path / "b"
    write_run_file(source, make_run(), {**make_document(make_run()), "machine_info": info})
    stored = accept_run(source, root=root, reason="r", date=DATE)
    assert stored.parent == root / folder
    assert stored.resolve().is_relative_to(root.resolve())


def test_a_strange_version_stays_inside_the_storage(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json", make_run(environment={"peft": "../../1 0"}))
    stored = accept_run(source, root=tmp_path / "b", reason="r", date=DATE)
    assert stored.name == "0001_peft-..-..-1-0.json"


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_accepts_at_the_same_time_all_land_under_numbers_of_their_own(
    tmp_path: Path, executor: str
) -> None:
    source, count = write_run(tmp_path / "run.json"), 6
    if executor == "threads":
        pool: Any = ThreadPoolExecutor(count)
    else:
        pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        jobs = [
            pool.submit(accept_run, source, root=tmp_path / "b", reason=str(i), date=DATE)
            for i in range(count)
        ]
        stored = [job.result(timeout=60) for job in jobs]
    assert sorted(path.name[:4] for path in stored) == [f"{i:04d}" for i in range(1, count + 1)]
    reasons = {
        entry.run.accepted.reason for entry in read_runs(tmp_path / "b") if entry.run.accepted
    }
    assert reasons == {str(i) for i in range(count)}


def test_an_accept_that_fails_leaves_the_lock_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_run(tmp_path / "run.json")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full_disk)
        with pytest.raises(InputError, match="No space left"):
            accept_run(source, root=tmp_path / "b", reason="r", date=DATE)
    assert baseline_files(tmp_path / "b") == []
    started = time.monotonic()
    assert accept_run(source, root=tmp_path / "b", reason="r", date=DATE).name.startswith("0001_")
    assert time.monotonic() - started < 5


def test_what_accept_leaves_in_the_storage_is_the_entry_and_the_lock(tmp_path: Path) -> None:
    source, root = write_run(tmp_path / "run.json"), tmp_path / "b"
    stored = accept_run(source, root=root, reason="r", date=DATE)
    files = {path for path in root.rglob("*") if path.is_file()}
    assert files - {root / ".lock"} == {stored}


def test_only_entries_are_taken_for_entries(tmp_path: Path) -> None:
    entry = write_entry(tmp_path, 1)
    for other in (
        "sources/sources.json",
        "adapters/lora.safetensors",
        "Linux/.0002_x.json.abc",
        "Linux/0002_x.json~",
        "Linux/deep/0002_x.json",
        ".ipynb_checkpoints/0001_x.json",
        "0001_top.json",
        ".lock",
    ):
        path = tmp_path / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no run")
    assert baseline_files(tmp_path) == [entry]
    assert [stored.path for stored in read_runs(tmp_path)] == [entry]


@pytest.mark.parametrize("name", ["notes.json", "001_short.json", "0001.json", "peft-0.22.json"])
def test_a_json_file_that_is_no_entry_is_not_passed_over(tmp_path: Path, name: str) -> None:
    """It may be the newest baseline under another name; an older one must not judge instead."""
    write_entry(tmp_path, 1, folder="Linux").with_name(name).write_text("no run")
    with pytest.raises(RunFileError, match="is no entry"):
        read_runs(tmp_path)


@pytest.mark.parametrize("date", ["", "yesterday", "2026-01-02", "2026-01-02T03:04:05"])
def test_a_date_that_is_no_moment_is_refused(tmp_path: Path, date: str) -> None:
    accepted = Acceptance(reason="r", date=date, role="baseline")
    path = write_run(tmp_path / "run.json", make_run(accepted=accepted))
    with pytest.raises(RunFileError, match="ISO 8601"):
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


def test_a_host_name_is_never_accepted(tmp_path: Path) -> None:
    run = make_run()
    document = make_document(run)
    document["machine_info"]["node"] = "workstation-7"
    write_run_file(tmp_path / "run.json", run, document)
    stored = accept_run(tmp_path / "run.json", root=tmp_path / "b", reason="r", date=DATE)
    assert "workstation-7" not in stored.read_text()


def test_the_repositorys_own_storage_is_sound() -> None:
    assert read_runs(Path(__file__).parent.parent / "baselines") is not None


# --- pytest-benchmark -----------------------------------------------------------------------


def test_pytest_benchmarks_own_storage_reads_the_stored_file(tmp_path: Path) -> None:
    from pytest_benchmark.storage.file import FileStorage

    source = write_run(tmp_path / "run.json", rich_run())
    stored = accept_run(source, root=tmp_path / "b", reason="r", date=DATE)
    storage = FileStorage(str(tmp_path / "b"), logging.getLogger())
    found = list(storage.load_benchmarks())
    assert {entry["path"] for entry in found} == {str(stored.relative_to(tmp_path / "b"))}
    assert [entry["param"] for entry in found] == [LORA, FULL]
    assert all(entry["mean"] == 0.05 for entry in found)


def test_pytest_benchmark_compare_reads_the_stored_files(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run.json")
    for _ in range(2):
        accept_run(source, root=tmp_path / "b", reason="r", date=DATE)
    command = [sys.executable, "-m", "pytest_benchmark", "--storage", (tmp_path / "b").as_uri()]
    done = subprocess.run(
        [*command, "compare"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Failed to load" not in done.stdout + done.stderr
    assert done.stdout.count(LORA) == 2
