"""Source checkpoints: the recorded bytes or an error that says what to do."""

import hashlib
from pathlib import Path

import pytest
import torch
from tiny_architecture import TinyArchitecture
from tiny_training import evaluate

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.catalogue.architectures.torchvision_models import SHUFFLENET_V2_X0_5
from peft_regress.catalogue.sources import (
    SOURCE_TRAINING,
    SourceTraining,
    build_source,
    check_sources,
    read_manifest,
    require_sources,
    source_digest,
)
from peft_regress.catalogue.tasks.digits import SOURCE_CLASSES, load_images
from peft_regress.errors import AbsentError, SourceError
from peft_regress.measure import sources
from peft_regress.measure.sources import ensure_source, save_source, train_source

TINY = TinyArchitecture()
SHORT = SourceTraining(steps=2, batch_size=8, recalibration_batches=2)
STORED = Path(__file__).resolve().parents[2] / "baselines"


@pytest.fixture(scope="module")
def state():
    """Return a source of two steps."""
    return train_source(TINY, settings=SHORT)


@pytest.fixture
def root(tmp_path, state):
    """Return a folder with one stored source."""
    save_source(tmp_path, TINY, state, settings=SHORT)
    return tmp_path


def _file(root):
    return root / "sources" / "tiny.safetensors"


def _refuse(*_, **__):
    pytest.fail("this must not be called")


# Training


def test_training_twice_gives_the_same_bits(state):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = train_source(TINY, settings=SHORT)
    assert torch.equal(torch.get_rng_state(), before)
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)


# Storing


def test_a_stored_source_is_loaded_in_single_precision(root, state):
    model = build_source(root, TINY)
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for name, tensor in loaded.items():
        assert tensor.dtype == (torch.int64 if name.endswith("tracked") else torch.float32)
        assert torch.equal(tensor, state[name].to(tensor.dtype))
    assert not model.training


def test_manifest_records_digest_recipe_and_held_out_accuracy(root):
    entry = read_manifest(root)["tiny"]
    content = _file(root).read_bytes()
    assert entry.sha256 == hashlib.sha256(content).hexdigest() == source_digest(root, "tiny")
    assert entry.bytes == len(content)
    assert entry.settings == SHORT
    images, labels = load_images("mnist", "test", classes=SOURCE_CLASSES)
    assert entry.accuracy == evaluate(build_source(root, TINY), images, labels)[0]


# Refusing


def test_one_altered_byte_is_refused_with_both_digests_and_the_way_out(root):
    path = _file(root)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        build_source(root, TINY)
    message = str(caught.value)
    assert str(path) in message
    assert hashlib.sha256(content).hexdigest() in message
    assert source_digest(root, "tiny") in message
    assert f"git checkout -- {path}" in message
    assert "peft-regress sources" in message
    assert check_sources(root, ["tiny"]) == [message]


def test_only_a_built_in_case_requires_sources(tmp_path, root, monkeypatch):
    built_in = Case(task="shift", method="head", architecture="tiny")
    own = Case(task="own", method="head", architecture="tiny")
    monkeypatch.setattr("peft_regress.catalogue.sources.is_built_in", lambda case: case == built_in)
    require_sources(tmp_path / "empty", [own])
    require_sources(root, [own, built_in])
    with pytest.raises(SourceError, match="a checkout of peft_regress"):
        require_sources(tmp_path / "empty", [own, built_in])


ABSENT = {
    # What is written to the manifest, or None: the file is deleted; and what is said.
    "a file": (None, r"tiny\.safetensors: missing"),
    "an entry": (b"{}", "no entry for 'tiny'"),
    "a text": (b"\xff", "not a manifest of sources"),
    "a key too many": (b'{"tiny": {"surprise": 1}}', "not a manifest of sources"),
}


@pytest.mark.parametrize("name", ABSENT)
def test_a_part_that_is_missing_or_damaged_is_refused(root, name):
    manifest, message = ABSENT[name]
    if manifest is None:
        _file(root).unlink()
    else:
        (root / "sources" / "manifest").write_bytes(manifest)
    with pytest.raises(SourceError, match=message) as caught:
        build_source(root, TINY)
    assert isinstance(caught.value, AbsentError)


# Training only where nothing is stored


def test_only_an_absent_source_is_trained(root, tmp_path, monkeypatch, state):
    monkeypatch.setattr(sources, "train_source", _refuse)
    assert ensure_source(root, TINY) is False
    monkeypatch.setattr(sources, "train_source", lambda _: state)
    assert ensure_source(tmp_path / "empty", TINY) is True


@pytest.mark.parametrize("damage", ["altered", "deleted", "unrecorded"])
def test_a_damaged_source_is_neither_used_nor_overwritten(root, monkeypatch, damage):
    if damage == "altered":
        _file(root).write_bytes(b"other")
    elif damage == "deleted":
        _file(root).unlink()
    else:
        (root / "sources" / "manifest").write_bytes(b"{}")
    monkeypatch.setattr(sources, "train_source", _refuse)
    with pytest.raises(SourceError):
        ensure_source(root, TINY)


# The stored ones


def test_the_stored_sources_are_sound_and_complete():
    names = [item.name for item in registry.items("architecture") if item.matrices]
    assert check_sources(STORED, names) == []
    manifest = read_manifest(STORED)
    assert manifest.keys() >= {"resnet18", "mobilenet_v2", SHUFFLENET_V2_X0_5.name}
    assert {entry.settings for entry in manifest.values()} == {SOURCE_TRAINING}
    assert all(entry.accuracy > 0.85 for entry in manifest.values())
