"""The command `peft-regress upgrade`."""

import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import click

from peft_regress.cli import options
from peft_regress.errors import InputError
from peft_regress.files import cache_folder
from peft_regress.overlay.folder import Overlay
from peft_regress.overlay.overlay import clean_overlays
from peft_regress.report import upgrades as reports
from peft_regress.report.terminal import echo, say, show
from peft_regress.runner.measuring import MeasuringSetup
from peft_regress.upgrades.reproduction import Reproduction, reproduce
from peft_regress.upgrades.upgrade import Upgrade, UpgradeSettings, is_installed_here, upgrade


@options.command(
    "upgrade",
    "peft-regress upgrade peft",
    "peft-regress upgrade peft==0.14.0 --cases 'shift/*/resnet18'",
    "peft-regress upgrade --summary issue.md peft torch==2.13.0",
)
@click.argument("requirements", metavar="[REQUIREMENT]...", nargs=-1)
@options.cases_option()
@options.matrix_option
@click.option(
    "--base",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Compare with `auto` (the stored baseline if it has the installed packages, else `run`), "
    "`run` (a new run of the installed packages), `merge-base` or `git:REF` (a checkout as it was "
    "at that commit), an entry, a run file or a folder.",
)
@options.file_option("--save", help_text="Write the candidate's run to this file.")
@options.strict_option
@click.option(
    "--clean", "clean_up", is_flag=True, help="Remove all kept environments and do nothing else."
)
@click.option(
    "--function",
    is_flag=True,
    help="Search for the function of the package that does it, by mixing both releases.",
)
@options.replace_torch_option
@options.summary_option
@options.measuring_options
@options.format_option
def command(  # noqa: PLR0913  (arguments and options)
    requirements: tuple[str, ...],
    *,
    cases: str | None,
    clean_up: bool,
    ready: AbstractContextManager[MeasuringSetup],
    summary: Path | None,
    output: str,
    **settings: Any,
) -> int:
    """Show what an upgrade to REQUIREMENT, such as peft==0.14.0, would change.

    A REQUIREMENT is anything that pip installs: a release, `peft @ git+https://...`, a wheel or a
    checkout. It goes into an environment over this one, which stays as it is. The cases run in
    both, and changes are grouped by cause. The exit code is 1 if something regressed, 3 if not
    everything was compared.
    """
    if clean_up:
        if requirements:
            raise click.UsageError("--clean takes no requirement")
        _clean()
        return 0
    if not requirements:
        raise click.UsageError(
            "name a requirement, for example `peft-regress upgrade peft==0.14.0`, or --clean"
        )
    scripts: tuple[Reproduction, ...] = ()

    def finish(result: Upgrade, overlay: Overlay) -> None:
        """Write the scripts while the candidate's environment exists."""
        nonlocal scripts
        if summary is not None or output == "markdown":
            # A stored run may be of other packages than the installed ones.
            references = result.comparison.references.values()
            is_here = all(is_installed_here(side.environment) for side in references)
            before = "the packages before" if is_here else "the packages installed here"
            pythons = {before: Path(sys.executable), "those after": overlay.python}
            failing = [finding for finding in result.comparison.findings if finding.is_failing]
            scripts = tuple(reproduce(failing, result.comparison.observed, pythons))

    def show_compared(result: Upgrade) -> None:
        """Show the comparison before single packages are tried, which takes long."""
        if output == "text":
            show(reports.compared_sections(result), output)
            echo()

    with ready as setup:
        result = upgrade(
            requirements,
            UpgradeSettings(setup=setup, pattern=cases, **settings),
            progress=options.print_sentence,
            record_printer=partial(options.record_printer, pool=setup.pool),
            on_comparison=show_compared,
            finish=finish,
        )
        issue = reports.upgrade_document(result, scripts)
        # As text, what follows the comparison.
        shown = reports.tried_sections(result) if output == "text" else issue
        options.print_findings(output, reports.encode_upgrade(result), shown, issue, summary)
        if result.was_interrupted:
            raise KeyboardInterrupt
    return result.comparison.exit_code


def _clean() -> None:
    try:
        removed, used = clean_overlays()
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be removed ({error.strerror or error})"
        ) from error
    say(f"{len(removed)} environments removed from {cache_folder()}")
    if used:
        say(f"{len(used)} are in use and stay: {' '.join(used)}")
