"""tools/studies/accuracy_study.py: its images, and what it trains and stores."""

import gzip
import pickle
import zipfile
from hashlib import sha256

import accuracy_study
import accuracy_tasks
import msgspec
import numpy as np
import pytest
import torch
from accuracy_tasks import SEVERITIES, TASKS, corrupted, of_cifar10_c, of_folder
from PIL import Image

from peft_regress.catalogue.evidence import Evidence
from peft_regress.choosing.study import Point, Trainer

UNSEEN, SHIFT = TASKS


def rows(images):
    """Return each image as bytes."""
    return [image.numpy().tobytes() for image in images]


@pytest.mark.parametrize("side", [28, 64])
def test_the_worse_a_severity_the_further_each_kind_moves_an_image(side):
    images = torch.rand(30, 3, side, side, generator=torch.Generator().manual_seed(0))
    kinds = torch.tensor(
        [
            [(corrupted(images, level) - images)[kind::3].abs().mean() for kind in range(3)]
            for level in SEVERITIES
        ]
    )
    assert (kinds[0] > 0).all()
    assert (kinds.diff(dim=0) > 0).all()


def test_no_digit_is_in_two_of_source_training_and_test(monkeypatch):
    """Each is told by its pixels; corruption is left out."""
    monkeypatch.setattr(accuracy_tasks, "corrupted", lambda levels, _: levels)
    for task, last in ((UNSEEN, 5), (SHIFT, 10)):
        source = accuracy_tasks.source_digits(last)[0]
        train, test = (images for images, _ in task.data())
        parts = [set(rows(part)) for part in (source, train, test)]
        assert sum(map(len, parts)) == len(set().union(*parts))


def test_a_shift_trains_at_one_severity_and_tests_each_in_order(monkeypatch):
    monkeypatch.setattr(accuracy_tasks, "corrupted", lambda levels, severity: levels * 0 + severity)
    (images, labels), (tests, test_labels) = SHIFT.data()
    assert images.unique() == 3
    assert torch.bincount(labels).tolist() == [190] * 10
    parts = tests.view(5, 600, -1)
    assert [part.unique().item() for part in parts] == [1, 2, 3, 4, 5]
    labels = test_labels.view(5, 600)
    assert torch.equal(labels, labels[:1].expand(5, -1))


@pytest.fixture
def file(tmp_path, monkeypatch):
    """An evidence.json without studies."""
    path = tmp_path / "evidence.json"
    path.write_text('{"packages": {}, "studies": {}}')
    monkeypatch.setattr(accuracy_study, "EVIDENCE_FILE", path)
    monkeypatch.setattr(accuracy_study, "SOURCES", tmp_path / "runs" / "sources")
    return path


def scored(name, *, seed, at, rate=1.0, half=0):
    """Learn to 0.9 by 100 steps; the best rate is 3, and the head is worse."""
    best = 0.9 if name == "full" else 0.6
    return [
        Point(best * min(1, step / 100) - 0.01 * abs(rate - 3) - 0.001 * seed * (1 - half), {})
        for step in at
    ]


def test_a_study_trains_what_the_file_lacks_and_writes_it_after_each_method(file, monkeypatch):
    taken = []

    def points(self, name, **options):
        taken.append((name, options["seed"], options["at"][-1], options.get("rate", 1)))
        return scored(name, **options)

    monkeypatch.setattr(Trainer, "points", points)
    monkeypatch.setattr(Trainer, "before", lambda self: (0.2, 0.2))
    accuracy_study.run(UNSEEN, "resnet18", ["full"])
    study = msgspec.json.decode(file.read_bytes(), type=Evidence).studies["unseen"]["resnet18"]
    assert list(study.curve) == [75, 150, 300]
    assert study.steps == 150
    assert study.methods["full"].rate == 3
    assert study.methods["full"].final == pytest.approx((0.9, 0.899, 0.898, 0.897, 0.896))
    assert study.methods["full"].early[0] == pytest.approx(0.9 * 0.15)
    began = len(taken)
    accuracy_study.run(UNSEEN, "resnet18", ["full", "head"])
    assert {name for name, *_ in taken[began:]} == {"head"}
    chosen = [(at, rate) for _, seed, at, rate in taken[began:] if seed >= 1000]
    assert sorted(chosen[:5]) == [(18, rate) for rate in (0.1, 0.3, 1.0, 3.0, 10.0)]
    assert {at for at, _ in chosen[5:]} == {75}
    assert [seed for _, seed, _, _ in taken[-5:]] == list(range(5))
    accuracy_study.run(UNSEEN, "resnet18", ["full", "head"], longer=True)
    study = msgspec.json.decode(file.read_bytes(), type=Evidence).studies["unseen"]["resnet18"]
    assert len(study.methods["head"].longer) == 3
    assert taken[-1] == ("head", 2, 450, 3)


def test_a_folder_of_ones_own_is_a_task(tmp_path):
    """Red and green images, as `torchvision.datasets.ImageFolder` wants them."""
    for part, count in (("train", 3), ("test", 2)):
        for label, colour in (("green", (0, 200, 0)), ("red", (200, 0, 0))):
            folder = tmp_path / "apples" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (40, 30), colour).save(folder / f"{number}.png")
    task = of_folder("apples", tmp_path / "apples", "efficientnet_lite0", side=16)
    (images, labels), (tests, test_labels) = task.data()
    assert (images.shape, tests.shape) == ((6, 3, 16, 16), (4, 3, 16, 16))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert tests[test_labels == 1][0, :, 3, 3].tolist() == pytest.approx([200 / 255, 0, 0])
    model = task.model("efficientnet_lite0").eval()
    assert model(accuracy_tasks.loaded(task)[1][0]).shape == (4, 2)


def test_cifar_10_c_trains_at_severity_3_and_tests_the_last_images_of_each(tmp_path):
    pixels = np.zeros((50_000, 32, 32, 3), dtype=np.uint8)
    pixels += (np.arange(50_000) // 10_000 * 50).astype(np.uint8)[:, None, None, None]
    np.save(tmp_path / "fog.npy", pixels)
    np.save(tmp_path / "labels.npy", np.arange(50_000) % 10)
    task = of_cifar10_c("fog", tmp_path, "efficientnet_lite0", side=8)
    (images, labels), (tests, test_labels) = task.data()
    assert images.shape == (8_000, 3, 8, 8)
    assert images.unique().item() == pytest.approx(100 / 255)
    assert tests.reshape(5, -1)[:, 0].tolist() == pytest.approx(
        [0, 50 / 255, 100 / 255, 150 / 255, 200 / 255]
    )
    assert (len(labels), len(test_labels)) == (8_000, 10_000)


@pytest.mark.parametrize("part", ["data", "label"])
def test_no_other_release_of_the_animals_is_read(tmp_path, monkeypatch, part):
    monkeypatch.setattr(accuracy_tasks, "ANIMALS_WHEEL", tmp_path / "other.whl")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
        wheel.writestr(f"animal_mnist/data/Animal_MNIST/animal_{part}_version_3.gz", b"other")
    with pytest.raises(ValueError, match=rf"other.whl has another animal_{part}_version_3.gz"):
        accuracy_tasks.bytes_of_animals(part)


def test_the_pixels_of_the_animals_are_cut_out_of_the_pickle_unopened(tmp_path, monkeypatch):
    pixels = np.arange(120, dtype=np.uint8).reshape(5, 24)
    packed = gzip.compress(pickle.dumps(pixels))
    monkeypatch.setattr(accuracy_tasks, "ANIMALS_WHEEL", tmp_path / "wheel.whl")
    monkeypatch.setattr(accuracy_tasks, "ANIMALS_SHA256", {"data": sha256(packed).hexdigest()})
    monkeypatch.setattr(pickle, "loads", None)
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as wheel:
        wheel.writestr("animal_mnist/data/Animal_MNIST/animal_data_version_3.gz", packed)
    assert accuracy_tasks.bytes_of_animals("data") == pixels.tobytes()
