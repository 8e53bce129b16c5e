"""The command `peft-fuzz checklist`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from peft_fuzz.checklist.checklist import ChecklistSettings, checklist
from peft_fuzz.checklist.checklist_report import checklist_document, encode_checklist
from peft_fuzz.cli.options import ENVIRONMENT_OPTIONS, say, summary_option
from peft_regress.cli.options import (
    examples,
    format_option,
    jobs_option,
    limit_option,
    print_json,
)
from peft_regress.interrupts import ending_signals_interrupt
from peft_regress.report.terminal import print_progress, show, write_markdown
from peft_regress.workers.pool import default_jobs

_pre, _replace_torch = ENVIRONMENT_OPTIONS


@click.command(
    "checklist",
    epilog=examples("peft-fuzz checklist lora ../peft --base ../peft-main"),
)
@click.argument("method")
@click.argument("requirements", metavar="REQUIREMENT...", nargs=-1, required=True)
@click.option(
    "--base",
    default="installed",
    show_default=True,
    metavar="REQUIREMENT",
    help="Compare with this release or checkout, or with the installed packages.",
)
@_pre
@_replace_torch
@jobs_option("Examine this many situations at once (default: one per core).")
@limit_option("--time-limit", "How long one situation may take.")
@summary_option
@format_option
@click.pass_context
def command(
    context: click.Context,
    /,
    requirements: tuple[str, ...],
    *,
    jobs: int | None,
    summary: Path | None,
    output: str,
    **options: Any,
) -> None:
    """Compare METHOD in a pull request by the protocol of peft's maintainers.

    REQUIREMENT is what pip installs, such as the checkout of a branch. The exit code is 1 if a row
    is out of its bounds, 3 if not everything was compared.
    """
    settings = ChecklistSettings(jobs=jobs or default_jobs(), **options)
    with ending_signals_interrupt():
        result = checklist(requirements, settings, progress=say)
    document = checklist_document(result)
    # Before the file: a full disk must not cost what was found.
    if output == "json":
        print_json(encode_checklist(result))
    else:
        show(document, output)
    if summary is not None:
        write_markdown(summary, document)
        print_progress(f"summary: {summary}")
    context.exit(result.judged.exit_code)
