"""What commands that measure print on standard error while they work."""

from __future__ import annotations

from collections.abc import Callable

from peft_regress.report.sentences import REPEATED
from peft_regress.report.terminal import print_progress
from peft_regress.runs.schema import Record
from peft_regress.text import clean
from peft_regress.workers.pool import Pool


def print_sentence(text: str) -> None:
    """Print a sentence about the progress."""
    print_progress(clean(text, longest=400))


def record_printer(pool: Pool | None = None) -> Callable[[str, Record, int, int], None]:
    """Return a function that prints a line for each case of each side.

    It gets the side, the record, how many records there are and how many there will be. The lines
    also show the status of what measures, if that is not this machine.
    """

    def print_record(side: str, record: Record, done: int, count: int) -> None:
        state = "" if record.status == "ok" else f" {clean(record.status_text)}"
        state = f" {REPEATED}" if record.is_repeat else state
        name = f"{side} {record.case.id}" if side else record.case.id
        status = "" if pool is None else f" ({pool.status})"
        print_progress(f"[{done}/{count}] {name}{state}{status}")

    return print_record
