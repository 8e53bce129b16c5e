"""Source checkpoints: the recorded bytes or an error that says what to do."""

import hashlib
import re
from pathlib import Path

import msgspec
import pytest
import torch
from tiny_architecture import TinyArchitecture
from tiny_training import evaluate
from torch import nn

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.catalogue.architectures import SHUFFLENET_V2_X0_5
from peft_regress.catalogue.sources import (
    SourceTraining,
    build_source,
    check_sources,
    read_manifest,
    require_sources,
    source_digest,
)
from peft_regress.catalogue.tasks.digits import SOURCE_CLASSES, load_images
from peft_regress.errors import AbsentError, InputError, SourceError
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


def test_state_is_in_half_precision_and_counters_stay_whole(state):
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.int64}


def test_a_value_beyond_half_precision_is_refused():
    with pytest.raises(SourceError, match=r"conv\.weight does not fit half precision"):
        sources._halve("conv.weight", torch.tensor([1.0, 7e4]))


def test_recalibration_gives_the_plain_average_over_the_batches():
    layer = nn.BatchNorm2d(3, momentum=0.01).train()
    batches = [torch.randn(4, 3, 5, 5) + shift for shift in (1.0, 3.0)]
    sources._recalibrate(layer, batches)
    mean = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(layer.running_mean, mean)
    assert layer.momentum == 0.01


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


def test_a_second_source_leaves_the_first_ones_entry(root, state):
    first = read_manifest(root)["tiny"]
    save_source(root, TinyArchitecture(name="other"), state, settings=SHORT)
    assert read_manifest(root) == {"other": first, "tiny": first}
    assert check_sources(root, ["tiny", "other"]) == []


def test_a_failed_write_leaves_the_old_file_and_no_litter(root, state, monkeypatch):
    before = {path: path.read_bytes() for path in (root / "sources").iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    changed = {**state, "head.bias": state["head.bias"] + 1}
    with pytest.raises(InputError, match="No space left on device"):
        save_source(root, TINY, changed, settings=SHORT)
    assert {path: path.read_bytes() for path in (root / "sources").iterdir()} == before


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


def test_a_missing_file_is_refused_with_the_expected_digest(root):
    expected = source_digest(root, "tiny")
    _file(root).unlink()
    with pytest.raises(SourceError, match=rf"tiny\.safetensors: missing, .*{expected}"):
        build_source(root, TINY)


def test_a_missing_manifest_is_refused(tmp_path):
    (tmp_path / "sources").mkdir()
    with pytest.raises(SourceError, match=r"manifest: missing\. Restore .*regress sources"):
        build_source(tmp_path, TINY)


def test_a_folder_without_sources_is_told_once_with_where_they_are(tmp_path):
    (problem,) = check_sources(tmp_path, ["tiny", "other"])
    assert "a checkout of peft_regress" in problem
    assert "`peft-regress sources`" in problem
    assert "`peft-regress init`" in problem


def test_only_a_built_in_case_requires_sources(tmp_path, root, monkeypatch):
    built_in = Case(task="shift", method="head", architecture="tiny")
    own = Case(task="own", method="head", architecture="tiny")
    monkeypatch.setattr(
        "peft_regress.catalogue.sources.own_fine_tune", lambda case: case if case == own else None
    )
    require_sources(tmp_path / "empty", [own])
    require_sources(root, [own, built_in])
    with pytest.raises(SourceError, match="a checkout of peft_regress"):
        require_sources(tmp_path / "empty", [own, built_in])


def test_a_missing_entry_names_those_that_are_there(root):
    with pytest.raises(SourceError, match=re.escape("no entry for 'other' (has tiny)")):
        build_source(root, TinyArchitecture(name="other"))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"tiny": {"sha256": "0"}}', b"\xff"],
    ids=["empty", "list", "short", "no text"],
)
def test_a_manifest_that_is_none_is_refused(root, content):
    (root / "sources" / "manifest").write_bytes(content)
    with pytest.raises(SourceError, match="not a manifest of sources"):
        build_source(root, TINY)


def test_a_manifest_with_an_unknown_key_is_refused(root):
    path = root / "sources" / "manifest"
    manifest = msgspec.json.decode(path.read_bytes())
    manifest["tiny"]["surprise"] = 1
    path.write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(SourceError, match="surprise"):
        read_manifest(root)


def test_a_source_that_is_absent_is_exit_code_three():
    assert issubclass(SourceError, AbsentError)


# Training only where nothing is stored


def test_a_sound_source_is_not_trained_again(root, monkeypatch):
    monkeypatch.setattr(sources, "train_source", _refuse)
    assert ensure_source(root, TINY) is False


def test_an_absent_source_is_trained_and_stored(tmp_path, monkeypatch, state):
    monkeypatch.setattr(sources, "train_source", lambda _: state)
    assert ensure_source(tmp_path, TINY) is True
    assert check_sources(tmp_path, ["tiny"]) == []


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
    assert {entry.settings for entry in manifest.values()} == {sources.SOURCE_TRAINING}
    assert all(entry.accuracy > 0.85 for entry in manifest.values())


def test_a_stored_source_reads_its_own_digits_as_well_as_recorded():
    images, labels = load_images("mnist", "test", classes=SOURCE_CLASSES)
    accuracy, _ = evaluate(build_source(STORED, SHUFFLENET_V2_X0_5), images, labels)
    recorded = read_manifest(STORED)[SHUFFLENET_V2_X0_5.name].accuracy
    # Another processor may round one image over the edge.
    assert accuracy == pytest.approx(recorded, abs=1.5 / len(labels))
