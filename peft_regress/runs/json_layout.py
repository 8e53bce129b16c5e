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

    So a metric is one line of a diff, as is a ledger's module. Raises `ValueError` for NaN.
    """
    text = io.StringIO()
    _add(text.write, value, 0, _DEEPEST)
    text.write("\n")
    return text.getvalue()


def _add(write: Callable[[str], object], value: Any, indent: int, deepest: int) -> None:
    line = _on_one_line(value)
    is_line = indent >= deepest or not isinstance(value, dict | list)
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
