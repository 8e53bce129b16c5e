"""Real digit images: raw bytes, split and preprocessing. No torch at import.

`digits.npz` has the images; digits.md beside it says where they come from and under which licences.
Nothing is downloaded or drawn at random. Resizing is two products with a fixed matrix in double
precision, rounded once to float32, so pixels do not depend on the processor.
"""

import functools
import hashlib
import io
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from peft_regress.cases import Json
from peft_regress.errors import InputError

Scanner = Literal["mnist", "sklearn"]
Split = Literal["source", "train", "test"]

IMAGE_SIZE: Final = 32

# Mean and standard deviation of MNIST's pixels, the usual constants, for both scanners alike.
_MEAN, _DEVIATION = 0.1307, 0.3081

DIGITS_FILE: Final = Path(__file__).with_name("digits.npz")
DIGITS_SHA256: Final = "0a92c1b0dd1ba4b8371dac51309f992bb137f6ffa445622292ee211a4b510fb4"
"""Of the file: other bytes are refused."""


class _Rendering(NamedTuple):
    """How to bring a scanner's digits to `IMAGE_SIZE`, and which split gets which."""

    side: int
    full_ink: int
    """The largest value."""
    resized: int
    """MNIST leaves a margin of 4 in 28; scikit-learn's digits fill their frame."""
    turn: tuple[Split, ...]
    """The images of each class go to these splits in turn."""


_RENDERINGS: Final[dict[Scanner, _Rendering]] = {
    "mnist": _Rendering(28, 255, 28, ("source", "train", "source", "test", "source")),
    "sklearn": _Rendering(8, 16, 22, ("train", "test", "train")),
}


class DigitSet(NamedTuple):
    """All digits of one scanner."""

    pixels: NDArray[np.uint8]
    """(count, side, side)"""
    labels: NDArray[np.uint8]
    """(count,)"""
    sha256: str
    """Of both and their shapes."""


@functools.cache
def read_digits(scanner: Scanner) -> DigitSet:
    """Return a scanner's digits, read once per process."""
    content = DIGITS_FILE.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != DIGITS_SHA256:
        raise InputError(
            f"{DIGITS_FILE}: expected sha256 {DIGITS_SHA256}, found {found}. Install peft-regress "
            "again; in a checkout: `git checkout -- peft_regress`"
        )
    digest = hashlib.sha256()
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        pixels, labels = (file[f"{scanner}_{part}"] for part in ("pixels", "labels"))
    for array in (pixels, labels):
        digest.update(repr(array.shape).encode())
        digest.update(array.tobytes())
        array.setflags(write=False)
    return DigitSet(pixels, labels, digest.hexdigest())


def split_indices(scanner: Scanner, split: Split, *, classes: int) -> NDArray[np.int64]:
    """Return the sorted indices of a split among the first `classes` digits: (count,).

    The images of each class go to the splits in turn, so every split has the same proportions.
    """
    turn = _RENDERINGS[scanner].turn
    labels = read_digits(scanner).labels
    chosen: list[int] = []
    for digit in range(classes):
        members = np.flatnonzero(labels == digit).tolist()
        chosen += [i for number, i in enumerate(members) if turn[number % len(turn)] == split]
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
    rendering = _RENDERINGS[scanner]
    coverage = read_digits(scanner).pixels[indices].astype(np.float64) / rendering.full_ink
    rows = _bilinear(rendering.side, rendering.resized)
    resized = rows @ coverage @ rows.T  # (count, resized, resized)
    before = (IMAGE_SIZE - rendering.resized) // 2
    after = IMAGE_SIZE - rendering.resized - before
    padded = np.pad(resized, ((0, 0), (before, after), (before, after)))
    levels = paper + (ink - paper) * padded
    if grain:
        levels += grain * _grain(scanner, indices)
    return ((levels - _MEAN) / _DEVIATION).astype(np.float32)[:, None]


def rendering_definition(scanner: Scanner) -> dict[str, Json]:
    """Return the definition of a scanner's images: raw digest, split rule, preprocessing."""
    rendering = _RENDERINGS[scanner]
    return {
        "scanner": scanner,
        "sha256": read_digits(scanner).sha256,
        "split": ["each class dealt in turn", *rendering.turn],
        "full_ink": rendering.full_ink,
        "resized": rendering.resized,
        "interpolation": "bilinear, half-pixel centres, edges clamped",
        "padded": IMAGE_SIZE,
        "mean": _MEAN,
        "deviation": _DEVIATION,
        "channels": "grey repeated three times",
    }


def _grain(scanner: Scanner, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return noise from -1 to 1, (count, 32, 32), always the same for an image."""
    # It comes from a hash, since a release of numpy may change its generators.
    size = IMAGE_SIZE * IMAGE_SIZE
    drawn = b"".join(
        hashlib.shake_256(f"{scanner} {index}".encode()).digest(size) for index in indices.tolist()
    )
    noise = np.frombuffer(drawn, dtype=np.uint8).reshape(len(indices), IMAGE_SIZE, IMAGE_SIZE)
    return noise / 127.5 - 1


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
