"""Adapters kept beside a run file and stored by `accept`: which, where, never an altered one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from builders import make_case, make_record, make_run, write_run

from peft_regress.baselines.adapters import (
    LARGEST_BYTES,
    adapters_of_run,
    choose_adapters,
    gather_adapters,
    keep_adapter,
    prune_adapters,
    store_adapters,
    stored_adapter,
)
from peft_regress.baselines.references import newest_references
from peft_regress.errors import InputError

if TYPE_CHECKING:
    from peft_regress.runs.run_file import RunFile
    from peft_regress.runs.schema import Record

BASELINES = Path(__file__).parents[2] / "baselines"
LORA = "shift/lora-r1/resnet18"
SMALL_LORA = "shift/lora-r1/mobilenet_v2"
HEAD = "shift/head/resnet18"


def record_of(identifier: str, *, reloads: bool | None = True) -> Record:
    return make_record(identifier, invariants={"saved_adapter_reloads": reloads})


def keep(folder: Path, identifier: str, *, size: int = 10, definition: str | None = None) -> Path:
    keep_adapter(
        folder,
        make_case(identifier),
        definition=definition or record_of(identifier).definition,
        output=[[0.5, 1.5]],
        save=lambda place: (place / "adapter.safetensors").write_bytes(b"x" * size) and None,
    )
    return folder / identifier.replace("/", "--")


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run of three cases that kept what each of them ships."""
    path = write_run(
        tmp_path / "run.json", make_run(*(record_of(name) for name in (LORA, SMALL_LORA, HEAD)))
    )
    for name, size in ((LORA, 30), (SMALL_LORA, 20), (HEAD, 40)):
        keep(adapters_of_run(path), name, size=size)
    return path


def stored_case(root: Path, method: str) -> str:
    return json.loads((root / "adapters" / method / "stored.json").read_text())["case"]


def test_each_case_of_ones_own_has_an_adapter_of_its_own(tmp_path: Path) -> None:
    names = ("text/lora-r4/encoder", "images/lora-r4/net")
    records = [
        msgspec.structs.replace(record_of(name), profiled_on="fake tensors") for name in names
    ]
    path = write_run(tmp_path / "run.json", make_run(*records, record_of(LORA)))
    for name in (*names, LORA):
        keep(adapters_of_run(path), name)
    stored = store_adapters(choose_adapters(path, tmp_path), tmp_path)
    assert sorted(stored) == sorted([*names, LORA])
    for record in records:
        folder, _ = stored_adapter(tmp_path, record.case, record.definition)
        assert folder == tmp_path / "adapters" / record.case.id.replace("/", "--")
    assert stored_case(tmp_path, "lora") == LORA


# Keeping


def test_a_run_keeps_adapters_in_a_folder_next_to_its_file(tmp_path: Path) -> None:
    assert adapters_of_run(tmp_path / "bench.json") == tmp_path / "bench.adapters"


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False)])
def test_an_adapter_that_is_too_large_is_not_kept(tmp_path: Path, more: int, kept: bool) -> None:
    assert keep(tmp_path, HEAD, size=LARGEST_BYTES + more).exists() is kept


def test_the_adapter_of_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    folder = keep(tmp_path, HEAD)
    (folder / "stray").write_text("of an earlier release")
    keep(tmp_path, HEAD, size=3)
    assert {path.name for path in folder.iterdir()} == {"adapter.safetensors", "stored.json"}
    assert (folder / "adapter.safetensors").stat().st_size == 3


def test_the_adapter_of_an_earlier_run_does_not_stand_for_one_that_is_too_large(
    tmp_path: Path,
) -> None:
    folder = keep(tmp_path, HEAD)
    keep(tmp_path, HEAD, size=LARGEST_BYTES + 1)
    assert not folder.exists()


def test_if_the_folder_cannot_be_written_nothing_is_kept_and_nothing_raised(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder would be")
    keep(tmp_path / "taken", HEAD)
    assert (tmp_path / "taken").read_text() == "a file where the folder would be"


def test_pruning_removes_only_adapters_of_earlier_runs(tmp_path: Path) -> None:
    kept = keep(tmp_path, HEAD)
    gone = keep(tmp_path, LORA)
    failed = keep(tmp_path, SMALL_LORA)
    other = keep(tmp_path, "unseen/head/resnet18", definition="sha256:other")
    altered = keep(tmp_path, "unseen/full/resnet18")
    (altered / "adapter.safetensors").write_bytes(b"y")
    (tmp_path / "notes").mkdir()
    names = (HEAD, "unseen/head/resnet18", "unseen/full/resnet18")
    records = [*map(record_of, names), record_of(SMALL_LORA, reloads=False)]
    prune_adapters(tmp_path, make_run(*records))
    assert kept.exists()
    assert not any(path.exists() for path in (gone, failed, other, altered))
    assert (tmp_path / "notes").exists()
    prune_adapters(tmp_path / "absent", make_run())


# Accepting


def test_the_smallest_of_each_method_is_stored(run_file: Path, tmp_path: Path) -> None:
    root = tmp_path / "baselines"
    chosen = choose_adapters(run_file, root)
    assert not root.exists(), "choosing writes nothing"
    assert store_adapters(chosen, root) == [HEAD, SMALL_LORA]
    assert {path.name for path in (root / "adapters").iterdir()} == {"head", "lora"}
    stored = json.loads((root / "adapters" / "lora" / "stored.json").read_text())
    assert stored["case"] == SMALL_LORA
    assert stored["packages"]["peft"] == "0.18.1"
    assert stored["output"] == [[0.5, 1.5]]


def test_a_method_stays_with_the_case_that_was_stored_before(
    run_file: Path, tmp_path: Path
) -> None:
    root = tmp_path / "baselines"
    store_adapters(choose_adapters(run_file, root), root)
    keep(adapters_of_run(run_file), LORA, size=1)
    keep(adapters_of_run(run_file), SMALL_LORA, size=21)
    store_adapters(choose_adapters(run_file, root), root)
    assert stored_case(root, "lora") == SMALL_LORA
    assert (root / "adapters" / "lora" / "adapter.safetensors").stat().st_size == 21


def test_a_method_that_the_run_did_not_keep_stays_as_it_is(run_file: Path, tmp_path: Path) -> None:
    root = tmp_path / "baselines"
    store_adapters(choose_adapters(run_file, root), root)
    partial = write_run(tmp_path / "partial.json", make_run(record_of(HEAD)))
    keep(adapters_of_run(partial), HEAD)
    assert store_adapters(choose_adapters(partial, root), root) == [HEAD]
    assert stored_case(root, "lora") == SMALL_LORA


def test_shards_are_one_run(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    for index, name in enumerate((LORA, SMALL_LORA)):
        path = write_run(shards / f"{index}.json", make_run(record_of(name)))
        keep(adapters_of_run(path), name, size=10 - index)
    (chosen,) = choose_adapters(shards, tmp_path / "baselines")
    assert chosen.stored.case == SMALL_LORA


def test_a_run_without_adapters_stores_none(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.json")
    assert choose_adapters(path, tmp_path / "baselines") == []


@pytest.mark.parametrize("identifier", ["unseen/head/resnet18", HEAD])
def test_adapters_of_another_run_are_refused(
    run_file: Path, tmp_path: Path, identifier: str
) -> None:
    """Of a case that this one has not, or of another definition of one that it has."""
    keep(adapters_of_run(run_file), identifier, definition="sha256:other")
    with pytest.raises(InputError, match=f"comes from {identifier} in another run. Remove"):
        choose_adapters(run_file, tmp_path / "baselines")


# Reading


@pytest.fixture
def storage(run_file: Path, tmp_path: Path) -> Path:
    root = tmp_path / "baselines"
    store_adapters(choose_adapters(run_file, root), root)
    return root


def definition_of(name: str) -> str:
    return record_of(name).definition


def test_what_was_stored_is_found_by_its_case_and_definition(storage: Path) -> None:
    found = stored_adapter(storage, make_case(HEAD), definition_of(HEAD))
    assert found is not None
    folder, stored = found
    assert (folder / "adapter.safetensors").read_bytes() == b"x" * 40
    assert stored.output == [[0.5, 1.5]]
    assert stored_adapter(storage, make_case(HEAD), "sha256:other") is None
    assert stored_adapter(storage, make_case("unseen/head/resnet18"), definition_of(HEAD)) is None
    assert stored_adapter(storage, make_case("shift/full/resnet18"), definition_of(HEAD)) is None
    assert stored_adapter(storage / "absent", make_case(HEAD), definition_of(HEAD)) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "adapter.safetensors").write_bytes(b"y"),
            r"adapter.safetensors: expected sha256 \w{64}, found \w{64}",
        ),
        (
            lambda folder: (folder / "adapter.safetensors").unlink(),
            r"adapter.safetensors: expected sha256 \w{64}, found none",
        ),
        (
            lambda folder: (folder / "more.bin").write_bytes(b""),
            r"more.bin: expected sha256 no such file, found \w{64}",
        ),
        (lambda folder: (folder / "more").mkdir(), "more: cannot be read"),
        (lambda folder: (folder / "stored.json").unlink(), "stored.json: cannot be read"),
        (
            lambda folder: (folder / "stored.json").write_text("<<<<<<< HEAD"),
            "stored.json: is no manifest of a stored adapter",
        ),
        (
            lambda folder: (folder / "stored.json").write_text('{"case": "x"}'),
            "stored.json: is no manifest of a stored adapter",
        ),
    ],
    ids=["altered", "absent", "added", "folder", "unlisted", "conflict", "partial"],
)
def test_an_altered_one_is_refused_with_the_file_and_the_remedy(
    storage: Path, run_file: Path, damage, message: str
) -> None:
    damage(storage / "adapters" / "head")
    for read in (
        lambda: stored_adapter(storage, make_case(HEAD), definition_of(HEAD)),
        lambda: choose_adapters(run_file, storage),
    ):
        with pytest.raises(InputError, match=message) as refused:
            read()
        assert "git checkout --" in str(refused.value)


# This repository's own


def test_every_method_that_reloads_has_a_stored_adapter_of_ten_megabytes_in_all(
    own_storage: list[RunFile],
) -> None:
    stored = {path.name for path in (BASELINES / "adapters").iterdir()}
    references = newest_references(own_storage)
    reloading = {
        case.record.case.method
        for case in references.values()
        if case.record.invariants.get("saved_adapter_reloads")
    }
    assert stored == reloading
    files = [path for path in (BASELINES / "adapters").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6


def test_links_beside_the_shards_are_not_followed(tmp_path: Path) -> None:
    """An artifact of others could lead to a secret of the machine that joins the shards."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("secret")
    shards = tmp_path / "shards"
    (shards / "a.adapters" / "lora").mkdir(parents=True)
    (shards / "a.adapters" / "lora" / "model.safetensors").write_text("plain")
    (shards / "a.adapters" / "lora" / "link").symlink_to(tmp_path / "secrets" / "token")
    (shards / "a.adapters" / "folder").symlink_to(tmp_path / "secrets")
    (shards / "b.adapters").symlink_to(tmp_path / "secrets")
    gather_adapters(shards, tmp_path / "run.json")
    copied = [path for path in adapters_of_run(tmp_path / "run.json").rglob("*") if path.is_file()]
    assert [path.read_text() for path in copied] == ["plain"]
