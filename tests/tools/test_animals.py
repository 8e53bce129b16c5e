"""tools/studies/animals.py: no pickle is opened but those that it knows, and they make arrays."""

import io
import os
import pickle
import zipfile

import animals
import numpy as np
import pytest


def opened(value):
    return animals.ArrayUnpickler(io.BytesIO(pickle.dumps(value))).load()


def test_a_pickle_of_an_array_is_opened():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    content = pickle.dumps(pixels, protocol=3).replace(b"numpy._core", b"numpy.core")  # of numpy 1
    np.testing.assert_array_equal(animals.ArrayUnpickler(io.BytesIO(content)).load(), pixels)


def test_a_pickle_of_anything_else_is_refused():
    with pytest.raises(pickle.UnpicklingError, match=r"posix.getcwd is no part of an array"):
        opened(os.getcwd)


def test_other_bytes_than_the_release_has_are_refused_unopened(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
        wheel.writestr("animal_mnist/data/Animal_MNIST/animal_data_version_3.gz", b"other")
    with (
        zipfile.ZipFile(tmp_path / "other.whl") as wheel,
        pytest.raises(ValueError, match=r"animal_data_version_3.gz: sha256 d9298a1.*, expected 68a"),
    ):
        animals.array_in(wheel, "data")
