"""The command `peft-fuzz replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from peft_fuzz.cli.options import finding_options, fuzz_and_show
from peft_fuzz.search.fuzz import FuzzSettings
from peft_regress.cli.options import examples
from peft_regress.interrupts import ending_signals_interrupt


@click.command(
    "replay",
    epilog=examples("peft-fuzz replay", "peft-fuzz replay peft==0.20.0"),
)
@finding_options
def command(
    context: click.Context,
    /,
    requirements: tuple[str, ...],
    *,
    summary: Path | None,
    output: str,
    **options: Any,
) -> None:
    """Replay the known defects: which are mended, still there, or new.

    REQUIREMENT, such as peft==0.20.0, is tried in an environment over this one; without, the
    installed packages are. The exit code is 1 if a mended defect is back, or an entry fails
    otherwise; 3 if not all was replayed.
    """
    settings = FuzzSettings(minutes=0, **options)
    with ending_signals_interrupt():
        code = fuzz_and_show(requirements, settings, summary=summary, output=output)
    context.exit(code)
