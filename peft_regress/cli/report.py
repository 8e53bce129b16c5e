"""The command `peft-regress report`."""

from __future__ import annotations

import functools
from pathlib import Path

import click

from peft_regress.baselines.history import (
    Entry,
    present_entries,
    present_run,
    read_entries,
    select_cases,
)
from peft_regress.baselines.named_runs import check_output
from peft_regress.catalogue.own_cases import device_classes
from peft_regress.cli import options
from peft_regress.cli.newest import judge_newest, judged_pairs
from peft_regress.files import write_atomic
from peft_regress.gc_pause import paused_gc
from peft_regress.report.page.content import Content
from peft_regress.report.page.data import page_data
from peft_regress.report.page.render import render_page
from peft_regress.report.page.views import page_parts
from peft_regress.report.results import overview
from peft_regress.report.terminal import say, show
from peft_regress.runs.run_file import read_run
from peft_regress.runs.schema import Run
from peft_regress.text import count_of


@click.command(
    "report",
    epilog=options.examples(
        "peft-regress report",
        "peft-regress report runs/bench.json --cases '*/resnet18'",
        "peft-regress report --html report.html",
    ),
)
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option(
    "--html",
    "page",
    type=options.output_file,
    metavar="FILE",
    help="Write a page for a browser to this file.",
)
@options.cases_option()
@options.format_option
@options.baselines_option
def command(
    runs: tuple[str, ...], *, page: Path | None, cases: str | None, output: str, baselines: Path
) -> None:
    """Show what every case costs and how accurate it is.

    The numbers of a case are those of the run RUN that is named last, else of its newest baseline.
    The page starts with the verdict on RUN, or on the newest entry. It also shows all entries: what
    changed between any two, histories, fronts of cost and accuracy, memory, ranks, and what fits on
    a device.
    """
    # The objects live until the end, so the garbage collector would search them in vain.
    with paused_gc():
        entries = read_entries(baselines, runs)
        if cases is not None:
            entries = select_cases(entries, cases)
        if page is not None:
            _write_page(page, entries, baselines, cases)
        elif output == "json":
            options.print_json(page_data(_content(entries, baselines, cases)))
        else:
            names = dict.fromkeys(entries[i].name for i in present_entries(entries).values())
            show(overview(present_run(entries), sources=", ".join(names)), output)


def _write_page(path: Path, entries: list[Entry], baselines: Path, cases: str | None) -> None:
    check_output(path, "--html", storage=baselines, reads=[entry.path for entry in entries])
    content = _content(entries, baselines, cases)
    page = render_page(page_parts(content, page_data(content))).encode()
    write_atomic(path, page)
    counted = (
        f"{count_of(len(content.cases), 'case')}, {count_of(len(entries), 'entry', 'entries')}"
    )
    say(f"wrote {path}: {counted}, {len(page) / 1e6:.1f} MB")


def _content(entries: list[Entry], baselines: Path, cases: str | None) -> Content:
    @functools.cache
    def read_whole(path: Path) -> Run:
        return read_run(path).run

    def whole_run(entry: Entry) -> Run:
        return read_whole(entry.path)

    return Content(
        entries=entries,
        whole_run=whole_run,
        devices=device_classes(),
        newest=judge_newest(baselines, entries, whole_run, cases or "*"),
        pairs=judged_pairs(entries, whole_run=whole_run),
    )
