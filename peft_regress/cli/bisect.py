"""The command `peft-regress bisect`."""

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import click

from peft_regress.cli import options
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.report import upgrades as reports
from peft_regress.runner.measuring import MeasuringSetup
from peft_regress.upgrades.bisect import Bisection, BisectSettings, bisect
from peft_regress.upgrades.reproduction import Reproduction, reproduce


@options.command(
    "bisect",
    "peft-regress bisect peft --good 0.14.0 --bad 0.21.2 --metric forward_flops",
    "peft-regress bisect peft --good 0.18.1 --bad 0.21.2 --cases 'shift/*'",
)
@click.argument("package")
@click.option("--good", required=True, metavar="VERSION", help="A release before the change.")
@click.option("--bad", required=True, metavar="VERSION", help="A release after the change.")
@options.cases_option(
    "Try cases whose id matches, such as shift/dora-r4/resnet18 (default: one case of each method "
    "and architecture)."
)
@click.option(
    "--metric",
    metavar="NAME",
    help="Look for a change of this metric or invariant, or of `status` (default: any change).",
)
@options.matrix_option
@click.option(
    "--function/--no-function",
    default=True,
    help="Search for the function of the package that does it, by mixing both releases.",
)
@options.also_install_option
@options.replace_torch_option
@options.summary_option
@options.measuring_options
@options.format_option
def command(
    *,
    cases: str | None,
    ready: AbstractContextManager[MeasuringSetup],
    summary: Path | None,
    output: str,
    **settings: Any,
) -> int:
    """Find the release of PACKAGE that changes a case, with as few tries as possible.

    Costs come first, since they need no training; the cases train only if the costs are equal at
    both ends. The exit code is 0 if a boundary was found, 3 if both ends are the same.
    """
    with ready as setup:
        chosen = BisectSettings(setup=setup, case=cases, **settings)
        found = bisect(chosen, progress=options.print_sentence)
        wants_scripts = (summary is not None or output == "markdown") and not found.was_interrupted
        issue = reports.bisection_document(found, _scripts(found) if wants_scripts else {})
        shown = reports.bisection_document(found) if output == "text" else issue
        options.print_findings(output, reports.encode_bisection(found), shown, issue, summary)
        if found.was_interrupted:
            raise KeyboardInterrupt
    return 0 if found.transitions else 3


def _scripts(found: Bisection) -> dict[int, tuple[Reproduction, ...]]:
    """Return the scripts of each transition, run with the packages of both its releases."""
    settings = found.settings
    made = {}
    for number, transition in enumerate(found.transitions):
        with ExitStack() as stack:
            pythons = {}
            for version in (transition.old, transition.new):
                wanted = [f"{settings.package}=={version}", *settings.also_install]
                overlay = stack.enter_context(opened_overlay(wanted, settings.setup.pip))
                pythons[f"{settings.package} {version}"] = overlay.python
            found_there = transition.comparison
            made[number] = tuple(reproduce(found_there.findings, found_there.observed, pythons))
    return made
