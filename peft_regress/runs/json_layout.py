"""Format JSON so that its changes can be reviewed line by line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any, Final

_LINE_WIDTH: Final = 140
_DEEPEST: Final = 6  # a number's samples; of `ledgers`, `curve` and `rates` one less

_on_one_line = json.JSONEncoder(allow_nan=False).encode


def dump_json(value: Any) -> str:
    """Format JSON for review: a value that fits on a line, or is nested deep, is one line.

    So a metric is one line of a diff, and so is a module of a ledger. Raises `ValueError` for NaN
    and infinities.
    """
    text = io.StringIO()
    _add(text.write, value, 0, _DEEPEST)
    text.write("\n")
    return text.getvalue()


def _add(write: Callable[[str], object], value: Any, indent: int, deepest: int) -> None:
    is_line = indent >= deepest or not isinstance(value, dict | list)
    if is_line or _room(value, _LINE_WIDTH - indent) >= 0:
        line = _on_one_line(value)
        if is_line or len(line) + indent <= _LINE_WIDTH:
            write(line)
            return
    inner = "\n" + " " * (indent + 1)
    is_mapping = isinstance(value, dict)
    write("{" if is_mapping else "[")
    for position, item in enumerate(value.items() if is_mapping else value):
        gap = "," + inner if position else inner
        if is_mapping:
            write(f"{gap}{_on_one_line(str(item[0]))}: ")
            is_flat = item[0] in {"ledgers", "curve", "rates"}
            _add(write, item[1], indent + 1, deepest - is_flat)
        else:
            write(gap)
            _add(write, item, indent + 1, deepest)
    write("\n" + " " * indent + ("}" if is_mapping else "]"))


def _room(value: Any, room: int) -> int:
    """Return at most how many of `room` characters a value leaves on its line; negative if none.

    It looks at no more of a large value than fits.
    """
    if isinstance(value, str):
        return room - len(value) - 2
    if not isinstance(value, dict | list):
        return room - 1
    room -= 2 * max(len(value), 1)
    for item in value:
        if room < 0:
            break
        if isinstance(value, dict):
            room = _room(value[item], room - len(str(item)) - 4)
        else:
            room = _room(item, room)
    return room
