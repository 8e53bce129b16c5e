"""Shorten case ids, and keep different ids different."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Final

from peft_regress.text import clean

_DIGITS: Final = 8


def short_names(ids: Iterable[str], *, longest: int = 160) -> dict[str, str]:
    """Return each id in at most `longest` characters; ids that would look alike get a digest.

    Ids look alike if they have the same beginning, or differ only in control characters.
    """
    shown = {name: clean(name, longest=longest) for name in ids}
    seen = Counter(shown.values())
    return {
        name: text if text and seen[text] == 1 else _with_digest(name, longest)
        for name, text in shown.items()
    }


def _with_digest(name: str, longest: int) -> str:
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:_DIGITS]
    return f"{clean(name, longest=longest - _DIGITS - 1)}~{digest}"
