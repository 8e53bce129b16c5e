"""Format JSON so that its changes can be reviewed line by line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_LINE_WIDTH = 140
_DEEPEST = 6  # a number's samples; under `ledgers` a module, one level less: one line


def dump_json(value: Any) -> str:
    """Format JSON for review: a value that fits on a line, or is nested deep, is one line.

    So a metric is one line of a diff, and so is a module of a ledger. Raises `ValueError` for NaN
    and infinities.
    """
    return "".join(_format(value, 0, _DEEPEST)) + "\n"


def _format(value: Any, indent: int, deepest: int) -> Iterable[str]:
    compact = json.dumps(value, ensure_ascii=True, allow_nan=False)
    fits = len(compact) + indent <= _LINE_WIDTH or indent >= deepest
    if fits or not isinstance(value, dict | list):
        yield compact
        return
    inner = "\n" + " " * (indent + 1)
    is_mapping = isinstance(value, dict)
    yield "{" if is_mapping else "["
    for position, item in enumerate(value.items() if isinstance(value, dict) else value):
        yield ("," if position else "") + inner
        if is_mapping:
            yield json.dumps(str(item[0])) + ": "
            is_ledgers = item[0] == "ledgers"
            yield from _format(item[1], indent + 1, deepest - is_ledgers)
        else:
            yield from _format(item, indent + 1, deepest)
    yield "\n" + " " * indent + ("}" if is_mapping else "]")
