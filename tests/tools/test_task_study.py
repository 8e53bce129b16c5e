"""tools/studies/task_study.py: the images that it makes."""

import gzip
import pickle
import zipfile
from hashlib import sha256

import numpy as np
import pytest
import task_study
import torch


@pytest.mark.parametrize("part", ["data", "label"])
def test_no_other_release_of_the_animals_is_read(tmp_path, monkeypatch, part):
    monkeypatch.setattr(task_study, "ANIMALS_WHEEL", tmp_path / "other.whl")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
        wheel.writestr(f"animal_mnist/data/Animal_MNIST/animal_{part}_version_3.gz", b"other")
    with pytest.raises(ValueError, match=rf"other.whl has another animal_{part}_version_3.gz"):
        task_study.bytes_of_animals(part)


def test_the_pixels_are_cut_out_of_the_pickle_unopened(tmp_path, monkeypatch):
    pixels = np.arange(120, dtype=np.uint8).reshape(5, 24)
    packed = gzip.compress(pickle.dumps(pixels))
    monkeypatch.setattr(task_study, "ANIMALS_WHEEL", tmp_path / "wheel.whl")
    monkeypatch.setattr(task_study, "ANIMALS_SHA256", {"data": sha256(packed).hexdigest()})
    monkeypatch.setattr(pickle, "loads", None)
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as wheel:
        wheel.writestr("animal_mnist/data/Animal_MNIST/animal_data_version_3.gz", packed)
    assert task_study.bytes_of_animals("data") == pixels.tobytes()


def test_the_worse_a_severity_the_further_an_image_is_from_its_own():
    images = task_study.load_images("mnist", "test", classes=5)[0][:30]
    kinds = [
        [(task_study.corrupted(images, level) - images)[kind::3].abs().mean() for kind in range(3)]
        for level in range(1, 6)
    ]
    changes = torch.tensor(kinds)  # (severity, kind)
    assert (changes[0] > 0).all()
    assert (changes.diff(dim=0) > 0).all()
