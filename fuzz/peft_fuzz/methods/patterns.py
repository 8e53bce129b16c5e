"""The values that a pattern gives a layer: `rank_pattern`, `alpha_pattern`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


class AmbiguousPatternError(KeyError):
    """Two keys give a layer different values; the documentation does not say which one holds."""


def by_pattern(pattern: Mapping[str, Any] | None, layer: str, default: Any) -> Any:
    """Return a layer's value: of the key that matches its path, or the default.

    A key is a name or a regular expression (peft's documentation of `rank_pattern`). It matches
    the whole path or a dotted end of it; one that starts with ^ the whole path alone.
    """
    parts = layer.split(".")
    ends = [".".join(parts[start:]) for start in range(len(parts))]
    found = [
        value
        for key, value in (pattern or {}).items()
        if any(re.fullmatch(key, end) for end in (ends[:1] if key.startswith("^") else ends))
    ]
    if any(value != found[0] for value in found):
        raise AmbiguousPatternError(layer)
    return found[0] if found else default
