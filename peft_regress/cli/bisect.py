"""The command `peft-regress bisect`: thin, no logic of its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from peft_regress.cli.options import (
    baselines_option,
    format_option,
    jobs_option,
    output_file,
    pip_seconds_option,
    pre_option,
    print_json,
    time_limit_option,
    yes_option,
)
from peft_regress.files import write_atomic
from peft_regress.report.terminal import echo, print_progress, stdout_layout
from peft_regress.text import clean

if TYPE_CHECKING:
    from pathlib import Path

    from peft_regress.environments.reproduction.reproduce import Reproduction
    from peft_regress.environments.upgrade.bisect import Bisection

__all__ = ["bisect_command"]

_ABSENT_EXIT = 3


@click.command("bisect")
@click.argument("package")
@click.option("--good", required=True, metavar="VERSION", help="A release before the change.")
@click.option("--bad", required=True, metavar="VERSION", help="A release after it.")
@click.option(
    "--case",
    metavar="ID",
    help="A case, or a glob (default: of each method and architecture one case).",
)
@click.option(
    "--metric", metavar="NAME", help="A metric, an invariant, or `status`; any by default."
)
@click.option("--all", "every", is_flag=True, help="Try each release, and report every change.")
@click.option("--matrix", default="default", show_default=True, help="Where a glob looks.")
@click.option(
    "--with",
    "beside",
    multiple=True,
    metavar="REQUIREMENT",
    help="Install this beside each release; may be repeated.",
)
@jobs_option
@pre_option
@yes_option
@click.option("--summary", type=output_file, help="Write the finding here, as Markdown.")
@time_limit_option
@pip_seconds_option
@format_option
@baselines_option
@click.pass_context
def bisect_command(  # noqa: PLR0913  (arguments and options)
    context: click.Context,
    /,
    *,
    jobs: int | None,
    yes: bool,
    summary: Path | None,
    time_limit: int,
    pip_time_limit: int,
    output: str,
    baselines: Path,
    **settings: Any,
) -> None:
    """Find the release of PACKAGE that changes a case, trying as few as possible.

    It looks at costs first, which need no training, and trains only where they say nothing. The
    exit code is 0 where a boundary was found, 3 where the two ends are the same.
    """
    from peft_regress.environments.upgrade import bisect_report
    from peft_regress.environments.upgrade.bisect import BisectSettings, bisect
    from peft_regress.environments.upgrade.crew import MeasuringSetup, default_jobs

    place = MeasuringSetup(
        baselines=baselines,
        jobs=jobs or default_jobs(),
        time_limit=time_limit,
        pip_seconds=pip_time_limit,
    )
    chosen = BisectSettings(place=place, replace_torch=yes, **settings)
    found = bisect(chosen, say=lambda text: print_progress(clean(text, longest=400)))
    wants_scripts = summary is not None or output == "markdown"
    text = bisect_report.bisection_markdown(found, _scripts(found)) if wants_scripts else ""
    if summary is not None:
        write_atomic(summary, text.encode())
        print_progress(f"summary: {summary}")
    if output == "json":
        print_json(bisect_report.encode_bisection(found))
    elif output == "markdown":
        echo(text, nl=False)
    else:
        echo(bisect_report.bisection_text(found, stdout_layout()))
    context.exit(0 if found.transitions else _ABSENT_EXIT)


def _scripts(found: Bisection) -> dict[int, tuple[Reproduction, ...]]:
    """Return the scripts of each transition, run with the packages of both its releases."""
    from peft_regress.environments.overlay.overlay import opened_overlay
    from peft_regress.environments.reproduction.reproduce import reproduce

    settings = found.settings
    made = {}
    for number, transition in enumerate(found.transitions):
        with ExitStack() as stack:
            pythons = {}
            for version in (transition.old, transition.new):
                overlay = stack.enter_context(
                    opened_overlay(
                        [f"{settings.package}=={version}", *settings.beside],
                        replace_torch=settings.replace_torch,
                        seconds=settings.place.pip_seconds,
                    )
                )
                pythons[f"{settings.package} {version}"] = overlay.python
            made[number] = reproduce(transition.comparison.findings, pythons)
    return made
