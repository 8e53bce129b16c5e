"""Tasks: which images, split how, rendered how, and what `definition` notices."""

import copy
import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tiny_network import tiny_network
from torch.nn import functional

import peft_regress
from peft_regress import registry
from peft_regress.catalogue.tasks import digit_images
from peft_regress.catalogue.tasks.digit_images import read_digits, render, split_indices
from peft_regress.catalogue.tasks.digits import (
    NUM_CLASSES,
    SHIFT,
    SOURCE_CLASSES,
    UNSEEN,
    load_images,
)
from peft_regress.catalogue.tasks.edge import EDGE_BATCH
from peft_regress.errors import InputError

SPLITS = {"mnist": ("source", "train", "test"), "sklearn": ("train", "test")}
each_task = pytest.mark.parametrize("task", [SHIFT, UNSEEN], ids=lambda item: item.name)


@pytest.mark.parametrize(
    ("scanner", "count", "sha256"),
    [
        ("mnist", 5000, "8fa65870cb2cfc9aea40a9b09c8f32df1dc2c12a928199ad4d3c83c2964b8763"),
        ("sklearn", 1797, "88779380a7709f41729911002512f87ab9395c201e80697007f2c1816dbc7d4a"),
    ],
)
def test_raw_images_are_the_known_ones(scanner, count, sha256):
    digits = read_digits(scanner)
    assert len(digits.pixels) == len(digits.labels) == count
    assert digits.sha256 == sha256


def test_the_digits_for_a_first_case_are_those_of_scikit_learn():
    for ours, known in zip(peft_regress.load_digits(), load_digits(return_X_y=True), strict=True):
        np.testing.assert_array_equal(ours, known, strict=True)


def test_a_digit_file_with_other_bytes_is_refused(monkeypatch, tmp_path):
    file = tmp_path / "digits.npz"
    file.write_bytes(digit_images.DIGITS_FILE.read_bytes()[:-1])
    monkeypatch.setattr(digit_images, "DIGITS_FILE", file)
    with pytest.raises(InputError, match=r"digits\.npz: expected sha256 .* Install peft-regress"):
        read_digits.__wrapped__("sklearn")


@pytest.mark.parametrize("scanner", list(SPLITS))
def test_splits_share_no_image_leave_none_out_and_have_every_class_in_proportion(scanner):
    digits = read_digits(scanner)
    parts = {name: split_indices(scanner, name, classes=10) for name in SPLITS[scanner]}
    assert sorted(np.concatenate([*parts.values()])) == list(range(len(digits.labels)))
    some = split_indices(scanner, "train", classes=SOURCE_CLASSES)
    assert list(some) == [i for i in parts["train"] if digits.labels[i] < SOURCE_CLASSES]
    seen = {name: {digits.pixels[i].tobytes() for i in indices} for name, indices in parts.items()}
    assert not any(seen["test"] & seen[name] for name in parts if name != "test"), "no copies"
    whole = np.bincount(digits.labels, minlength=10)
    turn = digit_images._RENDERINGS[scanner].turn
    for name, indices in parts.items():
        part = np.bincount(digits.labels[indices], minlength=10)
        assert np.all(np.abs(part - whole * turn.count(name) / len(turn)) < len(turn))


def test_the_source_never_sees_a_target_image_or_an_unseen_class():
    _, labels = load_images("mnist", "source", classes=SOURCE_CLASSES)
    assert sorted(set(labels.tolist())) == list(range(SOURCE_CLASSES))
    assert {SHIFT.scanner, UNSEEN.scanner} == {"sklearn"}


@each_task
def test_task_data_is_ready_for_the_model(task):
    assert registry.get("task", task.name) is task
    for images, labels in task.load():
        assert images.shape == (len(labels), 3, 32, 32)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert sorted(set(labels.tolist())) == list(range(task.classes))
        assert torch.equal(images[:, 0], images[:, 1])
        assert torch.equal(images[:, 0], images[:, 2])
    definition = task.definition()
    assert json.loads(json.dumps(definition)) == definition
    assert definition["sha256"] == read_digits(task.scanner).sha256
    assert definition["classes"] == task.classes == (SOURCE_CLASSES if task is SHIFT else 10)


@each_task
def test_each_image_carries_its_own_label(task):
    """Against the package's own arrays and torch's own resize: a shifted label would show."""
    known = load_digits()
    for split, (images, labels) in zip(("train", "test"), task.load(), strict=True):
        indices = split_indices("sklearn", split, classes=task.classes)
        assert labels.tolist() == known.target[indices].tolist()
        ink = torch.from_numpy(known.images[indices]).unsqueeze(1) / 16
        resized = functional.interpolate(ink, size=22, mode="bilinear", align_corners=False)
        padded = functional.pad(resized, (5, 5, 5, 5))
        levels = task.paper + (task.ink - task.paper) * padded
        expected = ((levels - 0.1307) / 0.3081).float().expand(-1, 3, -1, -1)
        grain = task.grain / 0.3081
        torch.testing.assert_close(images, expected, rtol=0, atol=grain + 1e-6)


def test_grain_is_bounded_noise_that_an_image_keeps_whatever_is_rendered_with_it():
    plain = render("sklearn", np.arange(20), paper=0.4, ink=0.7)
    grained = render("sklearn", np.arange(20), paper=0.4, ink=0.7, grain=0.05)
    difference = (grained - plain) * 0.3081
    assert 0.049 < np.abs(difference).max() <= 0.05 + 1e-6
    assert abs(difference.mean()) < 1e-3
    alone = render("sklearn", np.array([7]), paper=0.4, ink=0.7, grain=0.05)
    np.testing.assert_array_equal(alone[0], grained[7])
    assert not np.array_equal(difference[0], difference[1])


def test_unseen_draws_a_new_head_under_its_seed_and_touches_nothing_else():
    heads = []
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for seed in (0, 0, 1):
        model = tiny_network(num_classes=10)
        before = copy.deepcopy(model.state_dict())
        UNSEEN.prepare(model, head="head", seed=seed)
        changed = {
            name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])
        }
        assert changed == {"head.weight", "head.bias"}
        assert not model.head.bias.any()
        assert model.head.weight.abs().max() <= 1 / 12**0.5
        heads.append(model.head.weight.detach().clone())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_images_of_the_edge_matrix_are_drawn_and_always_the_same():
    (images, labels), (test_images, _) = EDGE_BATCH.load()
    assert images.shape == (16, 3, 96, 96)  # two steps of eight
    assert images.mean().abs() < 1e-2
    assert images.std() == pytest.approx(1, abs=1e-2)
    assert set(labels.tolist()) <= set(range(NUM_CLASSES))
    assert torch.equal(images, EDGE_BATCH.load()[0][0])
    assert torch.equal(test_images, images[:8])
