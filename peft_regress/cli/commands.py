"""The commands of `peft-regress`: thin, no logic of their own; `cli` says how they end."""

from __future__ import annotations

import datetime as dt
import warnings
from pathlib import Path
from typing import Any

import click
import msgspec

from peft_regress.cli.bisect import bisect_command
from peft_regress.cli.compare import compare_command
from peft_regress.cli.export import export_command
from peft_regress.cli.options import NamedPath, baselines_option, format_option, print_json
from peft_regress.cli.report import report_command
from peft_regress.cli.time import time_command
from peft_regress.cli.upgrade import upgrade_command
from peft_regress.errors import AbsentError
from peft_regress.report.terminal import as_ascii, echo

__all__ = ["cli"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="peft-regress")
@click.option("--ascii", "plain", is_flag=True, help="Write other letters than ASCII as escapes.")
def cli(*, plain: bool) -> None:
    """Gate the cost and the function of parameter-efficient fine-tuning.

    Run the benchmarks with `pytest benchmarks` or `tox -e bench`; these commands list what is
    measured, profile a single pairing, and compare and accept run files.
    """
    if plain:
        as_ascii()


@cli.command("list")
@click.option("--cases", "pattern", metavar="GLOB", help="Only ids that match, e.g. 'shift/*'.")
@click.option("--matrix", default="default", show_default=True, help="Or `extended`, or your own.")
@format_option
def list_command(pattern: str | None, matrix: str, output: str) -> None:
    """List the cases of a matrix."""
    from peft_regress.catalogue.matrix import select_cases

    cases = select_cases(pattern, matrix=matrix)
    if output == "json":
        print_json([{"id": case.id, **msgspec.to_builtins(case)} for case in cases])
    elif output == "markdown":
        echo("| id | task | method | architecture | rank |\n| --- | --- | --- | --- | ---: |")
        for case in cases:
            rank = "" if case.rank is None else case.rank
            echo(f"| {case.id} | {case.task} | {case.method} | {case.architecture} | {rank} |")
    else:
        for case in cases:
            echo(case.id)


@cli.command()
@click.option("--architecture", required=True, help="A registered architecture.")
@click.option("--method", required=True, help="A registered method.")
@click.option("--rank", type=click.IntRange(1, 65536), help="The rank, where the method has one.")
@click.option("--batch", type=click.IntRange(1, 65536), default=1, show_default=True)
@click.option("--resolution", type=click.IntRange(1, 16384), default=224, show_default=True)
@click.option("--classes", type=click.IntRange(1, 1000000), default=10, show_default=True)
@click.option(
    "--loss",
    type=click.Choice(["sum", "cross-entropy"]),
    default="cross-entropy",
    show_default=True,
)
@click.option(
    "--bn", type=click.Choice(["train", "eval"]), help="BatchNorm mode (default: the method's)."
)
@click.option("--freeze-head", is_flag=True, help="Leave the last layer untrained.")
@format_option
def cost(architecture: str, method: str, rank: int | None, output: str, **settings: Any) -> None:
    """Profile what one training step costs; needs no data and no source model."""
    from peft_regress import registry
    from peft_regress.catalogue.matrix import check_rank

    registry.get("architecture", architecture)
    check_rank(method, rank)

    from peft_regress.cases import Adaptation
    from peft_regress.measure.step_profile import (
        CostSettings,
        checked_cost,
        cost_metrics,
    )
    from peft_regress.report.cost import cost_markdown, cost_text, encode_cost

    adaptation = Adaptation(method=method, architecture=architecture, rank=rank)
    chosen = CostSettings(**settings)
    # An error says what matters of them, and says it without the path of a library.
    with warnings.catch_warnings(record=True) as caught:
        metrics = cost_metrics(checked_cost(adaptation, chosen))
    for text in dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught):
        echo(f"warning: {text}", err=True)
    if output == "json":
        print_json(encode_cost(adaptation, chosen, metrics))
    elif output == "markdown":
        echo(cost_markdown(adaptation, chosen, metrics))
    else:
        echo(cost_text(adaptation, chosen, metrics))


@cli.command()
@click.argument("old")
@click.argument("new")
@click.argument("case")
@click.option("--metric", "metrics", multiple=True, help="Only this one; may be repeated.")
@click.option(
    "--top",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Print so many layers of a metric, and the rest as one line; JSON has all.",
)
@format_option
@baselines_option
def explain(  # noqa: PLR0913  (arguments and options)
    old: str,
    new: str,
    case: str,
    metrics: tuple[str, ...],
    *,
    top: int,
    output: str,
    baselines: Path,
) -> None:
    """Show which modules and operators a change in the costs of CASE comes from.

    OLD and NEW are run files, folders of shards, baseline storages, or entries of the storage such
    as 0001.
    """
    from peft_regress import report
    from peft_regress.baselines.references import named_case
    from peft_regress.gate.attribution import changed_costs

    before, after = (named_case(baselines, name, case) for name in (old, new))
    changes = changed_costs(before.record, after.record, only=metrics)
    if output == "json":
        print_json(report.encode_explanation(before, after, changes))
    elif output == "markdown":
        echo(report.explanation_markdown(before, after, changes, top=top))
    else:
        echo(report.explanation_text(before, after, changes, top=top))


@cli.command()
@click.argument("runs", metavar="[RUN]...", type=NamedPath(path_type=Path), nargs=-1)
@click.option("--case", "--cases", "case", default="*", metavar="GLOB", help="Only these ids.")
@click.option("--metric", default="*", metavar="GLOB", help="Only these metrics.")
@click.option("--all", "every_point", is_flag=True, help="Print every point, changed or not.")
@click.option("--by", "package", metavar="PACKAGE", help="Order by its releases, not by date.")
@format_option
@baselines_option
def history(  # noqa: PLR0913  (arguments and options)
    runs: tuple[Path, ...],
    case: str,
    metric: str,
    *,
    every_point: bool,
    package: str | None,
    output: str,
    baselines: Path,
) -> None:
    """Show how each metric moved over the stored entries, and over the run files RUN after them."""
    from peft_regress import report
    from peft_regress.baselines.history import by_release, read_entries, select_histories

    entries = read_entries(baselines, runs)
    if package is not None:
        entries = by_release(entries, package)
    found = select_histories(entries, case=case, metric=metric)
    if output == "json":
        print_json(report.encode_history(found, every_point=every_point))
    else:
        show = report.history_markdown if output == "markdown" else report.history_text
        echo(show(found, every_point=every_point))


@cli.command()
@click.argument("run", type=NamedPath(path_type=Path))
@click.option("--reason", required=True, help="Why the new numbers are right.")
@click.option("--history", is_flag=True, help="Store for history only; never gates.")
@click.option(
    "--retire",
    "patterns",
    multiple=True,
    metavar="GLOB",
    help="Expect these cases no longer: renamed, or removed; may be repeated.",
)
@baselines_option
def accept(
    run: Path, reason: str, baselines: Path, patterns: tuple[str, ...], *, history: bool
) -> None:
    """Store RUN under baselines/, as what later runs are judged by."""
    from peft_regress.baselines.adapters import choose_adapters, store_adapters
    from peft_regress.baselines.entries import accept_run
    from peft_regress.baselines.references import retirable_cases
    from peft_regress.report import contents_line
    from peft_regress.runs.run_file import read_run_file

    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    retired = retirable_cases(baselines, patterns) if patterns else []
    adapters = choose_adapters(run, baselines) if run.exists() and not history else []
    stored = accept_run(
        run, root=baselines, reason=reason, date=date, history=history, retired=retired
    )
    echo(f"stored {stored}")
    accepted = read_run_file(stored).run
    echo(contents_line(accepted))
    if adapters:
        cases = store_adapters(adapters, baselines)
        echo(f"adapters stored: {' '.join(cases)}")
    elif not history:
        echo(f"no adapters stored: none was kept beside {run}")
    if retired:
        echo(f"{len(retired)} retired: {' '.join(retired)}")


@cli.command()
@click.option("--check", is_flag=True, help="Only check that the stored files are sound.")
@click.option("--force", is_flag=True, help="Train anew what is stored; voids every baseline.")
@click.option("--architecture", "names", multiple=True, help="Only this one; may be repeated.")
@baselines_option
def sources(names: tuple[str, ...], baselines: Path, *, check: bool, force: bool) -> None:
    """Train the source models that are missing, or check those that are stored."""
    from peft_regress import registry

    chosen = [
        registry.get("architecture", name)
        for name in names or registry.names("architecture")
        if names or registry.get("architecture", name).matrices
    ]
    from peft_regress.measure.sources import check_sources, ensure_source

    if check:
        problems = check_sources(baselines, [architecture.name for architecture in chosen])
        if problems:
            raise AbsentError("\n".join(problems))
        echo(f"{len(chosen)} sources are the recorded bytes")
        return
    for architecture in chosen:
        trained = ensure_source(baselines, architecture, force=force)
        echo(f"{architecture.name}: {'trained and stored' if trained else 'stored already'}")


cli.add_command(compare_command)
cli.add_command(report_command)
cli.add_command(export_command)
cli.add_command(time_command)
cli.add_command(upgrade_command)
cli.add_command(bisect_command)
