"""The migration of a storage: all stays but its form, or nothing is replaced."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

import migrate
import pytest
from builders import (
    LEDGER,
    LORA,
    accept,
    make_case,
    make_record,
    make_run,
    rich_run,
    split_by,
    write_entry,
    write_old_run,
    write_run,
)

from peft_regress.baselines.adapters import keep_adapter
from peft_regress.baselines.chain import acceptance_of
from peft_regress.baselines.entries import read_runs
from peft_regress.baselines.stored_adapters import stored_adapter
from peft_regress.runs.schema import Acceptance, canonical_digest

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "shift/head/resnet18"
DATE = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An entry with its ledgers inside, one of the form since, an adapter, and a source."""
    root = tmp_path / "baselines"
    accepted = Acceptance(reason="first", date=DATE, role="baseline")
    run = make_run(*rich_run(), accepted=accepted)
    write_old_run(root / "Linux-CPython-3.11-64bit" / "0001_old.json", run)
    head = make_record(HEAD)
    write_entry(root, 3, head, make_record(LORA, split_by(LEDGER), ledger=LEDGER))
    keep_adapter(
        tmp_path / "kept",
        make_case(HEAD),
        definition=head.definition,
        output=[[0.5]],
        save=lambda folder: (folder / "a.safetensors").write_bytes(b"x") and None,
    )
    shutil.copytree(tmp_path / "kept" / HEAD.replace("/", "--"), root / "adapters" / "head")
    (root / "sources").mkdir()
    (root / "sources" / "net.safetensors").write_bytes(b"weights")
    return root


def migrated(root: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["migrate.py", str(root), *options])
    return migrate.main()


def files_in(root: Path) -> dict[str, bytes]:
    found = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in found.items() if name.name != ".lock"}


def test_a_storage_is_rewritten_and_judges_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_runs(root)
    assert migrated(root, monkeypatch, "--write") == 0
    assert capsys.readouterr().out.startswith("proved: 2 entries with 6 records")
    after = read_runs(root)
    assert [entry.path for entry in after] == [entry.path for entry in before]
    for old, new in zip(before, after, strict=True):
        assert new.run.cases == old.run.cases
        assert acceptance_of(new).old_digest == old.run.content_digest
        assert acceptance_of(new).date == acceptance_of(old).date
    assert acceptance_of(after[1]).predecessor == after[0].run.content_digest
    assert acceptance_of(after[1]).adapters.keys() == {HEAD}
    assert stored_adapter(root, make_case(HEAD), "sha256:definition") is not None
    assert (root / "sources" / "net.safetensors").read_bytes() == b"weights"
    assert not (root / "adapters" / "head").exists()


def test_a_second_migration_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrated(root, monkeypatch, "--write")
    before = files_in(root)
    assert migrated(root, monkeypatch, "--write") == 0
    assert files_in(root) == before


def test_entries_that_were_accepted_into_the_chain_stay_in_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(write_run(tmp_path / "run.json"), root=root, reason="r", date=DATE)
    assert migrated(root, monkeypatch, "--write") == 0
    accept(write_run(tmp_path / "run.json"), root=root, reason="s", date=DATE)
    assert len(read_runs(root)) == 4


def test_without_write_the_storage_stays_as_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(root)
    assert migrated(root, monkeypatch) == 0
    assert files_in(root) == before
    assert [path.name for path in root.parent.iterdir() if path.name.startswith("tmp")] == []


@pytest.mark.parametrize("lost", ["metric", "adapter"])
def test_a_migration_that_loses_something_is_told_and_replaces_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    before = files_in(root)
    whole = migrate.migrate

    def lossy(source: Path, target: Path) -> None:
        copied = target.with_name("changed")
        shutil.copytree(source, copied)
        if lost == "adapter":
            shutil.rmtree(copied / "adapters")
        else:
            (entry,) = copied.glob("*/0003_*.json")
            document = json.loads(entry.read_text())
            metrics = document["peft_regress"]["cases"][HEAD]["metrics"]
            metrics["aten_ops"]["value"] += 1
            content = {k: v for k, v in document["peft_regress"].items() if k != "ledgers"}
            content.pop("content_digest")
            document["peft_regress"]["content_digest"] = canonical_digest(content)
            entry.write_text(json.dumps(document))
        whole(copied, target)

    monkeypatch.setattr(migrate, "migrate", lossy)
    assert migrated(root, monkeypatch, "--write") == 2
    assert "not the same before and after; nothing was replaced" in capsys.readouterr().err
    assert files_in(root) == before
