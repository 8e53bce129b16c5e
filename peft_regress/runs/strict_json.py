"""Read JSON strictly, and find where in the value something is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

_Keys = tuple[str | int, ...]


class _Flaw(NamedTuple):
    """Replaces in a value what JSON must not contain."""

    problem: str


def load_json(content: bytes) -> Any:
    """Parse JSON in UTF-8.

    Raises `ValueError` for other text, with the path to a key that occurs twice, a NaN, or a number
    too large for a float, and with the line of what is not JSON; `RecursionError` for too deep
    nesting.
    """
    found: list[_Flaw] = []

    def flaw(problem: str) -> _Flaw:
        found.append(_Flaw(problem))
        return found[-1]

    def unique_keys(pairs: list[tuple[str, Any]]) -> Any:
        result = dict(pairs)
        if len(result) == len(pairs):
            return result
        keys = [key for key, _ in pairs]
        twice = next(key for position, key in enumerate(keys) if key in keys[:position])
        return flaw(f"the key {twice!r} occurs twice in one object")

    def finite(number: str) -> float | _Flaw:
        value = float(number)
        return value if math.isfinite(value) else flaw(f"{number} is not a finite number")

    # Python's reader, not msgspec's: only it can see a key that occurs twice.
    value = json.loads(
        content.decode("utf-8-sig"),
        object_pairs_hook=unique_keys,
        parse_constant=lambda name: flaw(f"{name} is not a JSON number"),
        parse_float=finite,
    )
    if found:
        # The outermost one: an object with a key twice is not read any further.
        keys, first = next(item for item in _walk(value, ()) if isinstance(item[1], _Flaw))
        raise ValueError(f"{first.problem}, at {json_path(keys)}")
    return value


def json_path(keys: _Keys) -> str:
    """Return the path to a value: `$.cases["shift/full/resnet18"].metrics.loss.samples[0]`."""
    return "$" + "".join(
        f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{json.dumps(key)}]"
        for key in keys
    )


def path_of_bad_text(value: Any) -> str:
    """Return the path to the first text that is not Unicode, such as half a surrogate pair."""
    paths = (keys for keys, item in _walk(value, ()) if not _is_unicode((*keys[-1:], item)))
    return json_path(next(paths, ()))


def _is_unicode(texts: tuple[Any, ...]) -> bool:
    try:
        "".join(text for text in texts if isinstance(text, str)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(value: Any, keys: _Keys) -> Iterator[tuple[_Keys, Any]]:
    """Yield every value with the keys that lead to it, outer before inner values."""
    yield keys, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, (*keys, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _walk(item, (*keys, position))
