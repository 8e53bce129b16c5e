"""Whether what is broken was broken before in the same way: a known defect hides no other. Pure.

What an old record could not say is no difference.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import UNSET

from peft_regress.runs.schema import Defect, Failure, Record
from peft_regress.text import count_of

_VARYING: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|/\S+|[\w.]*\d[\w.]*")
"""The names, paths and numbers in a message."""
_MOST_GROWTH: Final = 10


def error_pattern(error: Failure | None) -> str:
    """Return type and message of an error without its names and numbers; '' for none."""
    return "" if error is None else f"{error.type}: {_pattern(error.message)}"


def _pattern(text: str) -> str:
    return _VARYING.sub("*", text)


def is_same_error(old: Failure | None, new: Failure | None) -> bool:
    """Return whether two cases fail with the same error, after as many steps."""
    return error_pattern(old) == error_pattern(new) and (
        old is None
        or new is None
        or UNSET in (old.after_steps, new.after_steps)
        or old.after_steps == new.after_steps
    )


def error_text(record: Record) -> str:
    """Return the status with its error, and after how many steps it was raised."""
    error = record.error
    if error is None or error.after_steps is UNSET:
        return record.status_text
    return f"{record.status_text} after {count_of(error.after_steps, 'step')}"


def is_known(name: str, old: Record, new: Record) -> bool:
    """Return whether an invariant that is false on both sides is no worse, and by the same cause.

    By the same error; or in no other tensors, and off by at most ten times as much. Where a defect
    is told in words alone, by the same words.
    """
    if old.defects is UNSET or new.defects is UNSET:
        return True
    was, now = old.defects.get(name, Defect()), new.defects.get(name, Defect())
    if Defect() in (was, now):
        return was == now and _pattern(old.note_on(name)) == _pattern(new.note_on(name))
    return (
        error_pattern(was.error) == error_pattern(now.error)
        and set(now.tensors) <= set(was.tensors)
        and _is_no_larger(was.size, now.size)
    )


def _is_no_larger(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is new
    return new <= _MOST_GROWTH * old
