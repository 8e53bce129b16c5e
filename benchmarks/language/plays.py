"""Shakespeare's plays as sequences of characters: modern spelling, and that of the First Folio.

plays.md says where the text comes from. No torch at import.
"""

from __future__ import annotations

import functools
import hashlib
import lzma
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress import PeftRegressError

if TYPE_CHECKING:
    from torch import Tensor

FILE: Final = Path(__file__).with_name("plays.xz")
SHA256: Final = "fe84236797347c7e42dad5dab57ba150a97822e785df0786ac4a1a0fc6facad4"
PARTS: Final = {
    "source": ("hamlet_gut", "lear_gut", "othello_gut"),
    "train": ("coriolanus_gut_f",),
    "test": ("winters_tale_gut_f",),
}
"""The plays of each part, as shakespeare 0.6 names their files; in the file in this order."""
CHARACTERS: Final = "".join(map(chr, range(32, 127))) + "\n"
"""A character's place is its token."""
LENGTH: Final = 64
"""Characters of a sequence."""
_TEST_ROWS: Final = 200


@functools.cache
def read_plays() -> dict[str, str]:
    """Return the text of each part. Raises `PeftRegressError` for any other bytes."""
    content = FILE.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise PeftRegressError(
            f"{FILE}: found sha256 {found}, expected {SHA256}. Restore it with `git checkout`."
        )
    return dict(zip(PARTS, lzma.decompress(content).decode("ascii").split("\0"), strict=True))


def sequences(part: str) -> Tensor:
    """Return a part's sequences, (count, LENGTH) int64, without its remainder."""
    import torch  # listing cases must not cost the import

    tokens = torch.tensor([CHARACTERS.index(character) for character in read_plays()[part]])
    return tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)


def folio() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return one play of the First Folio to train on, and the start of another one to test on."""
    train, test = sequences("train"), sequences("test")[:_TEST_ROWS]
    return {"input_ids": train, "labels": train}, {"input_ids": test, "labels": test}


def folio_of_one_task() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the same for methods that share what they train between tasks: all rows are one."""
    import torch  # listing cases must not cost the import

    train, test = folio()
    for part in (train, test):
        part["task_ids"] = torch.zeros(len(part["input_ids"]), dtype=torch.int64)
    return train, test
