"""What `peft-regress upgrade --checklist` does, apart from the options."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from peft_regress.cli.options import print_json
from peft_regress.cli.progress import print_sentence
from peft_regress.cli.upgrade import with_consent
from peft_regress.environments.checklist.checklist import Checklist, ChecklistSettings, checklist
from peft_regress.environments.checklist.checklist_report import (
    checklist_document,
    encode_checklist,
)
from peft_regress.environments.checklist.running import Result
from peft_regress.interrupts import ending_signals_interrupt
from peft_regress.report.pace import Pace
from peft_regress.report.terminal import print_progress, show, write_markdown

_WITH_CHECKLIST: Final = {
    "requirements",
    "checklist_of",
    "base",
    "pre",
    "replace_torch",
    "jobs",
    "time_limit",
    "pip_time_limit",
    "summary",
    "output",
}
_EACH: Final = 20
"""How many situations of a checklist make a line of progress."""


def show_checklist(
    context: click.Context,
    requirements: Sequence[str],
    *,
    summary: Path | None,
    output: str,
    **settings: Any,
) -> int:
    """Fill a checklist, write and print it, and return the exit code.

    settings: those of `ChecklistSettings`.
    """
    _refuse_options(context)

    def filled(settings: ChecklistSettings) -> Checklist:
        return checklist(
            requirements, settings, progress=print_sentence, on_result=_situation_printer()
        )

    with ending_signals_interrupt():
        result = with_consent(filled, ChecklistSettings(**settings))
    document = checklist_document(result)
    # Before the file: a full disk must not cost what was found.
    if output == "json":
        print_json(encode_checklist(result))
    else:
        show(document, output)
    if summary is not None:
        write_markdown(summary, document)
        print_progress(f"summary: {summary}")
    return result.judged.exit_code


def _refuse_options(context: click.Context) -> None:
    """Refuse the options that say what runs: a checklist has networks and bounds of its own."""
    for parameter in context.command.params:
        typed = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        if typed and parameter.name not in _WITH_CHECKLIST:
            raise click.UsageError(
                f"{parameter.opts[0]} does not go with --checklist, which has networks and bounds "
                "of its own and keeps no run"
            )


def _situation_printer() -> Callable[[Result, int, int], None]:
    """Return a function that prints a line on standard error for each twentieth situation."""
    pace = Pace()

    def print_result(result: Result, done: int, count: int) -> None:
        left = pace.left(done, count, time.monotonic())
        if done % _EACH == 0 or done == count:
            print_progress(f"[{done}/{count}] {result.situation.network}{left}")

    return print_result
