"""The command `peft-regress upgrade`: thin, no logic of its own."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

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
from peft_regress.errors import InputError
from peft_regress.files import write_atomic
from peft_regress.report.pace import Pace
from peft_regress.report.terminal import echo, print_progress, stdout_layout
from peft_regress.runs.environment import installed_packages
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from peft_regress.environments.overlay.overlay import Overlay
    from peft_regress.environments.reproduction.reproduce import Reproduction
    from peft_regress.environments.upgrade.upgrade import Upgrade, UpgradeSettings
    from peft_regress.runs.schema import Record

__all__ = ["teller", "upgrade_command"]


@click.command("upgrade")
@click.argument("requirements", metavar="[REQUIREMENT]...", nargs=-1)
@click.option("--cases", "pattern", metavar="GLOB", help="Only ids that match, e.g. 'shift/*'.")
@click.option("--matrix", default="default", show_default=True, help="Or `extended`, or your own.")
@jobs_option
@click.option(
    "--base",
    default="auto",
    show_default=True,
    help="Compare with: `auto` (the stored baseline if it is of the installed packages, else a run "
    "of them), `run`, or an entry, a run file or a folder.",
)
@click.option("--save", type=output_file, help="Write the candidate's run file here.")
@click.option("--summary", type=output_file, help="Write the findings here, as Markdown.")
@click.option("--strict", is_flag=True, help="Fail on improvements that were not accepted, too.")
@pre_option
@yes_option
@click.option("--clean", "clean_up", is_flag=True, help="Remove every kept environment, and end.")
@time_limit_option
@pip_seconds_option
@format_option
@baselines_option
@click.pass_context
def upgrade_command(  # noqa: PLR0913  (arguments and options)
    context: click.Context,
    /,
    requirements: tuple[str, ...],
    *,
    jobs: int | None,
    summary: Path | None,
    yes: bool,
    clean_up: bool,
    time_limit: int,
    pip_time_limit: int,
    output: str,
    baselines: Path,
    **settings: Any,
) -> None:
    """Tell what REQUIREMENT, such as peft==0.14.0, would move.

    A REQUIREMENT is as pip takes it: a release, `peft @ git+https://...`, a wheel or a checkout. It
    is installed into an environment over this one, which stays as it is; the cases run in both, and
    what moved is grouped by cause. The exit code is 1 where something regressed, 3 where not
    everything was compared.
    """
    if clean_up:
        if requirements:
            msg = "--clean takes no requirement"
            raise click.UsageError(msg)
        _clean()
        return
    if not requirements:
        msg = "name a requirement, for instance `peft-regress upgrade peft==0.14.0`, or --clean"
        raise click.UsageError(msg)
    from peft_regress.environments.upgrade.crew import MeasuringSetup, default_jobs
    from peft_regress.environments.upgrade.upgrade import UpgradeSettings

    place = MeasuringSetup(
        baselines=baselines,
        jobs=jobs or default_jobs(),
        time_limit=time_limit,
        pip_seconds=pip_time_limit,
    )
    chosen = UpgradeSettings(place=place, replace_torch=yes, **settings)
    wants_scripts = summary is not None or output == "markdown"
    result, scripts = _upgraded(requirements, chosen, wants_scripts=wants_scripts)
    from peft_regress.environments.upgrade import upgrade_report as report

    if summary is not None:
        write_atomic(summary, report.upgrade_markdown(result, scripts).encode())
        print_progress(f"summary: {summary}")
    if output == "json":
        print_json(report.encode_upgrade(result))
    elif output == "markdown":
        echo(report.upgrade_markdown(result, scripts), nl=False)
    else:
        echo(report.upgrade_text(result, stdout_layout()))
    context.exit(result.comparison.exit_code)


def _upgraded(
    requirements: Sequence[str], settings: UpgradeSettings, *, wants_scripts: bool
) -> tuple[Upgrade, tuple[Reproduction, ...]]:
    """Run the upgrade; ask first where it would replace torch and somebody can be asked."""
    from peft_regress.environments.overlay.overlay import ReplacesTorchError
    from peft_regress.environments.reproduction.reproduce import reproduce
    from peft_regress.environments.upgrade.upgrade import Told, upgrade

    scripts: tuple[Reproduction, ...] = ()

    def finish(result: Upgrade, overlay: Overlay) -> None:
        nonlocal scripts
        if wants_scripts:
            failing = [finding for finding in result.comparison.findings if finding.is_failing]
            # A stored run may be of other packages than those that are installed here.
            is_here = all(
                side.environment == installed_packages()
                for side in result.comparison.references.values()
            )
            before = "the packages before" if is_here else "the packages installed here"
            pythons = {before: Path(sys.executable), "those after": overlay.python}
            scripts = reproduce(failing, pythons)

    told = Told(say=_say, record=teller())
    try:
        return upgrade(requirements, settings, tell=told, finish=finish), scripts
    except ReplacesTorchError as error:
        if not sys.stdin.isatty():
            raise
        question = f"torch {error.old} would be replaced by {error.new}. Go on?"
        if not click.confirm(question, err=True):
            raise
    agreed = dataclasses.replace(settings, replace_torch=True)
    return upgrade(requirements, agreed, tell=told, finish=finish), scripts


def teller() -> Callable[[str, Record, int, int], None]:
    """Return what prints a line a case on standard error, so that a long run is seen to go on."""
    paces: dict[str, Pace] = defaultdict(Pace)

    def told(side: str, record: Record, done: int, count: int) -> None:
        state = "" if record.status == "ok" else f" {clean(record.status_text)}"
        left = paces[side].left(done, count, time.monotonic())
        print_progress(f"[{done}/{count}] {side} {record.case.id}{state}{left}")

    return told


def _say(text: str) -> None:
    print_progress(clean(text, longest=400))


def _clean() -> None:
    from peft_regress.environments.overlay.cache import cache_folder, clean_overlays

    try:
        removed, used = clean_overlays()
    except OSError as error:
        msg = f"{error.filename}: cannot be removed ({error.strerror or error})"
        raise InputError(msg) from error
    echo(f"{len(removed)} environments removed from {cache_folder()}")
    if used:
        echo(f"{len(used)} are in use and stay: {' '.join(used)}")
