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

    Rows = dict[str, Tensor]
    """Each (count, ...); a batch has some of the rows of each."""

FILE: Final = Path(__file__).with_name("plays.xz")
SHA256: Final = "70ab48a3794d497c880f5743e4428d5021a24e1feaa260d3918ef1306f291f3c"
PARTS: Final = {
    "source": ("hamlet_gut", "lear_gut", "othello_gut"),
    "train": ("coriolanus_gut_f",),
    "test": ("winters_tale_gut_f",),
}
"""The plays of each part, as shakespeare 0.6 names their files; in the file in this order."""
_PLAYS: Final = [name for names in PARTS.values() for name in names]
CHARACTERS: Final = "".join(map(chr, range(32, 127))) + "\n"
"""A character's place is its token."""
LENGTH: Final = 64
"""Characters of a sequence."""
_TEST_ROWS: Final = 200


@functools.cache
def read_plays() -> dict[str, str]:
    """Return the text of each play. Raises `PeftRegressError` for any other bytes."""
    content = FILE.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise PeftRegressError(
            f"{FILE}: found sha256 {found}, expected {SHA256}. Restore it with `git checkout`."
        )
    return dict(zip(_PLAYS, lzma.decompress(content).decode("ascii").split("\0"), strict=True))


def sequences(*names: str) -> Tensor:
    """Return the sequences of some plays, (count, LENGTH) int64, without the remainder."""
    import torch  # listing cases must not cost the import

    text = "".join(read_plays()[name] for name in names)
    tokens = torch.tensor([CHARACTERS.index(character) for character in text])
    return tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)


# To predict the next character


def modern() -> Rows:
    """Return the plays in modern spelling."""
    rows = sequences(*PARTS["source"])
    return {"input_ids": rows, "labels": rows}


def folio() -> tuple[Rows, Rows]:
    """Return one play of the First Folio to train on, and the start of another one to test on."""
    train, test = sequences(*PARTS["train"]), sequences(*PARTS["test"])[:_TEST_ROWS]
    return {"input_ids": train, "labels": train}, {"input_ids": test, "labels": test}


def folio_of_one_task() -> tuple[Rows, Rows]:
    """Return the same for methods that share what they train between tasks: all rows are one."""
    import torch  # listing cases must not cost the import

    train, test = folio()
    for part in (train, test):
        part["task_ids"] = torch.zeros(len(part["input_ids"]), dtype=torch.int64)
    return train, test


# To continue a passage


def modern_passages() -> Rows:
    """Return the plays in modern spelling: half a sequence, and the other half as labels."""
    return _halved(modern())


def folio_passages() -> tuple[Rows, Rows]:
    """Return the same of the plays of `folio`."""
    train, test = folio()
    return _halved(train), _halved(test)


def _halved(rows: Rows) -> Rows:
    first, second = rows["input_ids"].chunk(2, dim=1)
    return {"input_ids": first.contiguous(), "labels": second.contiguous()}


# To tell modern from original spelling


def spellings() -> Rows:
    """Return a play in modern spelling, and one of the First Folio, two classes."""
    return _spellings(PARTS["source"][0], *PARTS["train"], count=2000)


def lower_case() -> tuple[Rows, Rows]:
    """Return the same without capitals to train on, and the starts of two other plays to test."""
    test = _spellings(PARTS["source"][1], *PARTS["test"], count=_TEST_ROWS // 2)
    return _without_capitals(spellings()), _without_capitals(test)


def _spellings(modern: str, original: str, *, count: int) -> Rows:
    """Return the classes in turn, so that the first rows have both."""
    import torch  # listing cases must not cost the import

    rows = torch.stack([sequences(name)[:count] for name in (modern, original)], dim=1)
    return {"input_ids": rows.flatten(0, 1), "labels": torch.arange(2).repeat(count)}


def _without_capitals(rows: Rows) -> Rows:
    import torch  # listing cases must not cost the import

    small = torch.tensor([CHARACTERS.index(character.lower()) for character in CHARACTERS])
    return {**rows, "input_ids": small[rows["input_ids"]]}
