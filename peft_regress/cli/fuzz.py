"""The command `peft-regress fuzz`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from peft_regress.baselines.outputs import check_output
from peft_regress.cli.options import (
    NamedPath,
    SectionedCommand,
    baselines_option,
    examples,
    format_option,
    jobs_option,
    limit_option,
    on_option,
    output_file,
    pip_limit_option,
    print_json,
)
from peft_regress.environments.cluster.cluster import Cluster
from peft_regress.fuzz.fuzz import Fuzzed
from peft_regress.fuzz.reproduce import Shown
from peft_regress.interrupts import ending_signals_interrupt
from peft_regress.report.terminal import print_progress, show, write_markdown
from peft_regress.text import clean

_MOST_MINUTES: Final = 7 * 24 * 60


class _Minutes(click.FloatRange):
    """A number in a range; NaN, which compares with nothing, is none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


@click.command(
    "fuzz",
    cls=SectionedCommand,
    sections={
        "Search": ("minutes", "methods", "seed", "ranges"),
        "Environments": ("pre", "replace_torch", "on", "jobs", "time_limit", "pip_time_limit"),
        "Files": ("save", "summary"),
    },
    epilog=examples(
        "peft-regress fuzz",
        "peft-regress fuzz --minutes 0",
        "peft-regress fuzz peft==0.20.0 --methods 'lo*' --summary found.md",
    ),
)
@click.argument("requirements", metavar="[REQUIREMENT]...", nargs=-1)
@click.option(
    "--minutes",
    type=_Minutes(0, _MOST_MINUTES),
    metavar="N",
    default=10.0,
    show_default=True,
    help="How long to search; 0 replays the corpus alone.",
)
@click.option(
    "--methods",
    metavar="GLOB",
    default="*",
    show_default=True,
    help="Only methods whose name matches, such as 'lo*'.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="Seed of the search (default: another one each time; the report says which).",
)
@click.option(
    "--ranges/--no-ranges",
    default=True,
    show_default=True,
    help="Look for the releases in which a new finding fails.",
)
@on_option("Search")
@jobs_option("Search in this many processes (default: one per core, or one per Dask worker).")
@click.option("--pre", is_flag=True, help="Allow pre-releases.")
@click.option("--yes", "replace_torch", is_flag=True, help="Allow another build of torch.")
@limit_option("--time-limit", "How long one life may take.", seconds=60)
@pip_limit_option
@click.option(
    "--save",
    type=NamedPath(path_type=Path, file_okay=False),
    metavar="FOLDER",
    default=Path("runs/fuzz"),
    show_default=True,
    help="Keep each finding in this folder as soon as it is found.",
)
@click.option(
    "--summary",
    type=output_file,
    metavar="FILE",
    help="Write the findings to this file, as Markdown.",
)
@baselines_option
@format_option
@click.pass_context
def command(  # noqa: PLR0913  (arguments and options)
    context: click.Context,
    /,
    requirements: tuple[str, ...],
    *,
    baselines: Path,
    save: Path,
    summary: Path | None,
    output: str,
    on: str,
    **options: Any,
) -> None:
    """Search for defects of adapters that nobody wrote a case for.

    First the corpus of known findings is replayed. Then small networks, adapters and lives are
    drawn, and after each act it is checked what must hold. REQUIREMENT, such as peft==0.20.0, is
    fuzzed in an environment over this one; without, the installed packages are. The exit code is 1
    on a new finding, 3 if not all was tried.
    """
    from peft_regress.fuzz.corpus import corpus_folder
    from peft_regress.fuzz.fuzz import INTERRUPTED, fuzz
    from peft_regress.fuzz.report import encode_fuzzed, fuzz_document, grouped
    from peft_regress.fuzz.reproduce import reproduced

    for option, path in (("--save", save), ("--summary", summary)):
        if path is not None:
            check_output(path, option, storage=baselines)
            check_output(path, option, storage=corpus_folder(baselines), kind="corpus")
    wants_scripts = summary is not None or output != "text"
    scripts: dict[str, Shown] = {}
    problems: list[str] = []

    def finish(result: Fuzzed, python: Path) -> None:
        if not wants_scripts:
            return
        smallest = [group[0] for group in grouped(result.found)]
        was_interrupted = INTERRUPTED in result.problems  # whoever ends it does not want to wait
        try:
            reproduced(smallest, python, say=_say, scripts=scripts, only_written=was_interrupted)
        except KeyboardInterrupt:
            problems.append(INTERRUPTED)

    with ending_signals_interrupt(), _opened_cluster(on, baselines) as cluster:
        settings = _settings(baselines, save, cluster, **options)
        result = fuzz(requirements, settings, progress=_say, finish=finish, cluster=cluster)
    result = dataclasses.replace(result, problems=(*result.problems, *problems))
    if output == "json":
        print_json(encode_fuzzed(result, scripts))
    else:
        show(fuzz_document(result, None if output == "text" else scripts), output)
    # Last, since it may fail: minutes of search are on the screen by then.
    if summary is not None:
        write_markdown(summary, fuzz_document(result, scripts))
        print_progress(f"summary: {summary}")
    context.exit(result.exit_code)


@contextlib.contextmanager
def _opened_cluster(on: str, baselines: Path) -> Iterator[Cluster | None]:
    """Connect to what `--on` names; None for workers of this machine."""
    if on == "local":
        yield None
        return
    from peft_regress.environments.cluster.cluster import require_dask

    require_dask()
    from peft_regress.fuzz.cluster_search import search_cluster

    with search_cluster(on, baselines=baselines, say=_say) as cluster:
        yield cluster


def _settings(baselines: Path, save: Path, cluster: Cluster | None, **options: Any) -> Any:
    from peft_regress.fuzz.fuzz import FuzzSettings
    from peft_regress.runs.environment import usable_cores

    seed = options["seed"]
    most_jobs = usable_cores() if cluster is None else len(cluster.connection.workers())
    return FuzzSettings(
        baselines=baselines,
        save=save,
        minutes=options["minutes"],
        methods=options["methods"],
        seed=random.SystemRandom().randrange(2**32) if seed is None else seed,
        jobs=options["jobs"] or most_jobs,
        with_ranges=options["ranges"],
        life_seconds=options["time_limit"],
        pip_seconds=options["pip_time_limit"],
        replace_torch=options["replace_torch"],
        pre=options["pre"],
    )


def _say(text: str) -> None:
    print_progress(clean(text, longest=400))
