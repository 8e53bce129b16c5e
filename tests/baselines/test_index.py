"""The index of a storage saves reading; no verdict depends on whether it is there, or whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from builders import FULL, LORA, accept, make_record, make_run, write_entry, write_run

from peft_regress.baselines import index
from peft_regress.baselines.entries import baseline_files
from peft_regress.baselines.history import read_entries
from peft_regress.baselines.index import read_contents, read_contents_before
from peft_regress.baselines.references import read_references
from peft_regress.errors import InputError, RunFileError
from peft_regress.runs.schema import canonical_digest, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peft_regress.baselines.contents import Contents

DATE = "2026-01-01T00:00:00+00:00"
START = 100_000_000


def store(root: Path, peak: int, **how: Any) -> Path:
    metrics = {"peak_bytes": peak, "aten_ops": 1, "accuracy": [0.9, 0.91 + peak / 1e12]}
    records = [make_record(name, metrics) for name in how.pop("cases", (LORA, FULL))]
    source = write_run(root.parent / "run.json", make_run(*records))
    return accept(source, root=root, reason=f"r{peak}", date=DATE, **how)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A storage whose bytes grow a little with each entry, so that drift counts from the first."""
    root = tmp_path / "baselines"
    for number in range(4):
        store(root, START + 20_000 * number)
    read_contents(root)
    return root


def without_index(root: Path) -> Contents:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_known_part", lambda *_: (0, index.Contents()))
        patch.setattr(index, "keep_contents", lambda _: None)
        return read_contents(root)


def files_in(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def check_same(root: Path) -> None:
    """Check that the index changes nothing, drift included, and that the storage stays as it is."""
    before = files_in(root)
    assert read_contents(root) == without_index(root)
    assert files_in(root) == before


def test_an_entry_that_the_index_knows_is_not_parsed_again(root: Path, parsed: list[str]) -> None:
    cold = without_index(root)
    parsed.clear()
    warm = read_contents(root)
    assert (parsed, warm) == ([], cold)
    origins = read_references(root, drift=True)[LORA].drift_origins
    assert (origins["peak_bytes"].metric.value, origins["peak_bytes"].entry[:4]) == (START, "0001")
    assert read_references(root)[LORA].drift_origins == {}


def test_only_what_came_since_is_parsed(root: Path, parsed: list[str]) -> None:
    path = store(root, START + 90_000)
    parsed.clear()
    assert read_contents(root).judges[LORA].entry == 4
    assert parsed == [path.stem]
    check_same(root)
    parsed.clear()
    read_contents(root)
    assert parsed == []


def test_what_judged_the_newest_entry_is_kept_too(
    root: Path, index_folder: Path, parsed: list[str]
) -> None:
    expected = read_contents(root).references
    newest = store(root, START)
    shutil.rmtree(index_folder)
    read_contents(root)
    parsed.clear()
    before = read_contents_before(root, {newest})
    assert parsed == []
    assert before.references == expected
    assert before.references != read_contents(root).references


def test_a_history_reads_the_same_entries_with_an_index(root: Path) -> None:
    warm = read_entries(root, [])
    shutil.rmtree(root.parent / "cache")
    assert read_entries(root, []) == warm
    assert [entry.run.cases[LORA].metrics["peak_bytes"].value for entry in warm] == [
        START + 20_000 * number for number in range(4)
    ]


# --- a storage that was altered -------------------------------------------------------------------


def smaller(text: str) -> str:
    return text.replace('"peak_bytes": {"value": 100', '"peak_bytes": {"value": 900', 1)


def signed_again(text: str) -> str:
    """Return an entry with another number and a digest that fits."""
    document = json.loads(smaller(text))
    ours = document["peft_regress"]
    del ours["content_digest"]
    ours["content_digest"] = canonical_digest(ours)
    return json.dumps(document)


@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("alter", [smaller, signed_again, lambda _: "", lambda text: text[:-9]])
def test_an_entry_that_was_altered_is_an_error_with_an_index_too(
    root: Path, number: int, alter: Callable[[str], str]
) -> None:
    path = baseline_files(root)[number]
    before = path.read_text()
    path.write_text(alter(before))
    for use in (
        lambda: read_references(root, drift=True),
        lambda: read_entries(root, []),
        lambda: store(root, 7),
    ):
        with pytest.raises(InputError):
            use()
    path.write_text(before)
    check_same(root)


def test_an_entry_of_the_same_content_in_other_bytes_is_read_and_judges(
    root: Path, parsed: list[str]
) -> None:
    path = baseline_files(root)[2]
    path.write_text(json.dumps(json.loads(path.read_text())))
    read_contents(root)
    assert parsed == [one.stem for one in baseline_files(root)[2:]]
    check_same(root)


def test_an_entry_that_is_replaced_while_it_is_read_is_an_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the digest of the files and the records that judge, or that a history shows."""
    path = baseline_files(root)[-1]
    contents = read_contents(root)
    path.write_text(json.dumps(json.loads(path.read_text())))
    with pytest.raises(RunFileError, match=r"was replaced while .*Type the same command again"):
        list(index.skim_entries(root, contents.links))
    monkeypatch.setattr("peft_regress.baselines.references.read_contents", lambda _: contents)
    with pytest.raises(RunFileError, match="was replaced while"):
        read_references(root)


def test_entries_of_one_number_are_known_together(tmp_path: Path) -> None:
    """Before the chain two branches could give one number; dates order them."""
    root = tmp_path / "baselines"
    write_entry(root, 1, make_record(metrics={"aten_ops": 1}))
    late = "2026-03-01T00:00:00+00:00"
    write_entry(root, 2, make_record(metrics={"aten_ops": 2}), folder="A", date=late)
    check_same(root)
    write_entry(root, 2, make_record(metrics={"aten_ops": 3}), folder="B")
    check_same(root)
    assert read_references(root)[LORA].record.metrics["aten_ops"].value == 2
    for place in ("A", "B"):
        write_entry(root, 3, folder=place, title="x", date=late if place == "A" else DATE)
    check_same(root)


@pytest.mark.parametrize("seed", range(4))
def test_the_index_goes_on_from_any_storage_as_if_it_had_read_all(
    tmp_path: Path, seed: int
) -> None:
    """Roles, retired cases, cases that come back, changes within and beyond the bound."""
    chance = random.Random(seed)
    root, value = tmp_path / "baselines", START
    for _ in range(12):
        value += chance.choice([0, 30_000, -40_000, 5_000_000])
        cases = chance.choice([(LORA,), (FULL,), (LORA, FULL)])
        how: dict[str, Any] = {"history": chance.random() < 0.2}
        known = without_index(root).judges.keys() - set(cases)
        if known and not how["history"] and chance.random() < 0.4:
            how["retire"] = sorted(known)
        store(root, value, cases=cases, **how)
        if chance.random() < 0.5:
            read_contents(root)
        check_same(root)


# --- an index that is damaged, foreign or cannot be written ---------------------------------------


def resigned(content: bytes, change: Callable[[Any], object]) -> bytes:
    """Return a file of the index with another content, and the digest that fits."""
    kept = json.loads(content.partition(b"\n")[2])
    change(kept)
    body = json.dumps(kept).encode()
    return digest_of(body).encode() + b"\n" + body


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b'"value":100000000', b'"value":900000000'),
        lambda content: content.replace(b'"entry":3', b'"entry":0'),
        lambda content: resigned(content, lambda kept: kept.update(key="0" * 64)),
        lambda content: resigned(content, lambda kept: kept.update(new_in_a_later_version=1)),
        lambda content: resigned(content, lambda kept: kept["judges"][LORA].update(entry=99)),
        lambda content: resigned(content, lambda kept: kept["links"][3].update(digest="x")),
        lambda content: resigned(content, lambda kept: kept.pop("judges")),
    ],
    ids=["empty", "cut", "number", "entry", "other key", "later", "no entry", "digest", "key gone"],
)
def test_a_damaged_index_is_as_good_as_none_and_is_made_again(
    root: Path, index_folder: Path, parsed: list[str], damage: Callable[[bytes], bytes]
) -> None:
    expected, whole = without_index(root), files_in(index_folder)
    parsed.clear()
    for path, content in whole.items():
        damaged = damage(content) if b'"entry":3' in content else b"gone"
        assert damaged != content
        path.write_bytes(damaged)
    for _ in range(2):
        assert read_contents(root) == expected
        assert parsed == [path.stem for path in baseline_files(root)], "once, then never again"


def test_the_index_of_another_storage_under_this_name_is_not_used(
    root: Path, tmp_path: Path, index_folder: Path
) -> None:
    mine = read_contents(root)
    (name,) = [path for path in index_folder.iterdir() if b'"entry":3' in path.read_bytes()]
    other = tmp_path / "other" / "baselines"
    for number in range(4):
        store(other, START + 5_000_000 * number)
    read_contents(other)
    for path in index_folder.iterdir():
        if path != name and b'"entry":3' in path.read_bytes():
            shutil.copy(path, name)
    assert read_contents(root) == mine


def test_other_code_has_its_own_index(
    root: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_code_digest", lambda: "another version")
    read_contents(root)
    assert len(parsed) == 4
    read_contents(root)
    assert len(parsed) == 4


@pytest.mark.parametrize("place", ["/dev/null/cache", "~nobody-of-that-name/cache", "file"])
def test_without_a_folder_that_can_be_written_all_is_read(
    root: Path, tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PEFT_REGRESS_CACHE", str(tmp_path / "file" if place == "file" else place))
    for _ in range(2):
        assert read_contents(root) == without_index(root)
    assert len(parsed) == 16


def test_the_index_keeps_what_was_used_last(
    root: Path, index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_MOST_FILES", 2)
    for number in range(4, 8):
        store(root, START + 20_000 * number)
    assert len(list(index_folder.iterdir())) == 2
    check_same(root)


def test_a_folder_that_can_only_be_read_is_used_all_the_same(
    root: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refuse)
    assert read_contents(root) == without_index(root)
    assert len(parsed) == 4, "those of the reading without an index"


def test_what_is_not_of_the_index_stays(
    root: Path, index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may name a folder that has `storages` already."""
    monkeypatch.setattr(index, "_MOST_FILES", 0)
    (index_folder / "of-a-user.json").write_text("precious")
    (index_folder / "folder").mkdir()
    store(root, START)
    read_contents(root)
    assert {path.name for path in index_folder.iterdir()} == {"of-a-user.json", "folder"}


def test_many_may_write_the_index_at_once(root: Path, index_folder: Path) -> None:
    expected = without_index(root)

    def read(number: int) -> Contents:
        if number % 3 == 0:
            for path in index_folder.glob("*"):
                with contextlib.suppress(OSError):
                    path.unlink()
        return read_contents(root)

    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(read, range(24)))
    assert all(
        digest_of(content.partition(b"\n")[2]).encode() == content.partition(b"\n")[0]
        for content in files_in(index_folder).values()
    )


def test_a_small_storage_has_no_index(
    tmp_path: Path, index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PEFT_REGRESS_CACHE", str(tmp_path / "cache"))
    store(tmp_path / "baselines", START)
    read_contents(tmp_path / "baselines")
    assert not index_folder.exists()
