"""The command `peft-fuzz search`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import click

from peft_fuzz.cli.options import finding_options, fuzz_and_show, say
from peft_fuzz.search.fuzz import FuzzSettings
from peft_fuzz.search.worker import START_SECONDS
from peft_regress.cli.options import examples, jobs_option, on_option, opened_pool
from peft_regress.interrupts import ending_signals_interrupt
from peft_regress.project.project import current_project
from peft_regress.runner.measuring import MeasuringSetup
from peft_regress.runs.environment import usable_cores
from peft_regress.workers.pool import default_jobs

_NO_STORAGE: Final = Path("baselines")
"""Where a node would look for the source models that no search needs."""
_MOST_MINUTES: Final = 7 * 24 * 60


@click.command(
    "search",
    epilog=examples(
        "peft-fuzz search", "peft-fuzz search peft==0.20.0 --methods 'lo*' --summary found.md"
    ),
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, _MOST_MINUTES, min_open=True),
    metavar="N",
    default=10.0,
    show_default=True,
    help="How long to search.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="Seed of the search (default: another one each time; the report says which).",
)
@on_option("Search")
@jobs_option(
    "Search in this many processes (default: one per core, or one per Dask worker).", default=None
)
@finding_options
def command(  # noqa: PLR0913  (arguments and options)
    context: click.Context,
    /,
    requirements: tuple[str, ...],
    *,
    on: str,
    seed: int | None,
    jobs: int | None,
    summary: Path | None,
    output: str,
    **options: Any,
) -> None:
    """Search for defects of adapters that nobody wrote a case for.

    First the corpus of known findings is replayed. Then small networks, adapters and lives are
    drawn, and after each act it is checked what must hold. REQUIREMENT, such as peft==0.20.0, is
    fuzzed in an environment over this one; without, the installed packages are. The exit code is 1
    on a new finding, 3 if not all was tried.
    """
    setup = MeasuringSetup(
        project=current_project(),
        baselines=_NO_STORAGE,
        jobs=default_jobs(),
        time_limit=START_SECONDS,
    )
    with (
        ending_signals_interrupt(),
        opened_pool(on, setup, say=say, code=("peft_regress", "peft_fuzz")) as cluster,
    ):
        most_jobs = usable_cores() if cluster is None else cluster.slots
        settings = FuzzSettings(
            seed=random.SystemRandom().randrange(2**32) if seed is None else seed,
            jobs=jobs or most_jobs,
            **options,
        )
        code = fuzz_and_show(requirements, settings, cluster, summary=summary, output=output)
    context.exit(code)
