"""Read JSON strictly, and say where in the value something is wrong."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["json_place", "load_json", "place_of_bad_text"]

_Place = tuple[str | int, ...]


class _Flaw(NamedTuple):
    """Stands in a value for what JSON may not hold."""

    problem: str


def load_json(content: bytes) -> Any:
    """Parse JSON in UTF-8, UTF-16 or UTF-32.

    Raises `ValueError` with the place for a key that stands twice, NaN, and a number that no float
    can hold; with the line for what is no JSON; `RecursionError` for what is nested too deep.
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
        return flaw(f"the key {twice!r} stands twice in one object")

    def finite(number: str) -> float | _Flaw:
        value = float(number)
        return value if math.isfinite(value) else flaw(f"{number} is not a finite number")

    # Python's reader and not msgspec's: only it can see a key that stands twice.
    value = json.loads(
        content,
        object_pairs_hook=unique_keys,
        parse_constant=lambda name: flaw(f"{name} is not a JSON number"),
        parse_float=finite,
    )
    if found:
        # The outermost: what an object with a key twice holds is not looked at.
        place, first = next(item for item in _walk(value, ()) if isinstance(item[1], _Flaw))
        msg = f"{first.problem}, at {json_place(place)}"
        raise ValueError(msg)
    return value


def json_place(keys: _Place) -> str:
    """Write the way to a value: `$.cases["shift/full/resnet18"].metrics.loss.samples[0]`."""
    return "$" + "".join(
        f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{json.dumps(key)}]"
        for key in keys
    )


def place_of_bad_text(value: Any) -> str:
    """Return where the first text stands that is not Unicode, such as half a surrogate pair."""
    places = (place for place, item in _walk(value, ()) if not _is_unicode((*place[-1:], item)))
    return json_place(next(places, ()))


def _is_unicode(texts: tuple[Any, ...]) -> bool:
    try:
        "".join(text for text in texts if isinstance(text, str)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(value: Any, place: _Place) -> Iterator[tuple[_Place, Any]]:
    """Yield every value with the way to it, the outer before the inner."""
    yield place, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, (*place, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _walk(item, (*place, position))
