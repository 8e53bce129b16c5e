"""Make a failing example smaller by leaving out parts of its JSON: what is absent has its default.

Hypothesis makes smaller what was drawn, by drawing again; it cannot leave out what each drawn
example has, such as a layer's stride. Each edit takes one life.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from peft_fuzz.example import Example

_Path = tuple[str | int, ...]
_NEEDED: Final = frozenset({"kernel", "sizes", "target_modules"})
"""Keys without which an example means something else."""


def shrink(example: Example, still_fails: Callable[[Example], bool]) -> Example:
    """Return the smallest example that edits lead to, each of which keeps the failure.

    The largest parts go first. It ends when a whole round of edits changes nothing.
    """
    best, is_smaller = example, True
    while is_smaller:
        is_smaller = False
        for path in sorted(_paths(_as_json(best)), key=len):
            smaller = _without(best, path)
            if smaller is not None and smaller != best and still_fails(smaller):
                best, is_smaller = smaller, True
    return best


def _as_json(example: Example) -> Any:
    return msgspec.json.decode(msgspec.json.encode(example))


def _paths(value: Any, path: _Path = ()) -> Iterator[_Path]:
    """Yield the paths of all parts, the last of a list first, so that the others keep theirs."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict | list):
        items = [*(value.items() if isinstance(value, dict) else enumerate(value))]
    for key, inner in reversed(items):
        if key not in _NEEDED:
            yield (*path, key)
            yield from _paths(inner, (*path, key))


def _without(example: Example, path: _Path) -> Example | None:
    """Return an example without a part; None if it is none then."""
    value = part = _as_json(example)
    try:
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]
        made = msgspec.convert(value, Example)
    except (LookupError, TypeError, ValueError):
        return None
    return made if made.adapters and made.network.layers else None
