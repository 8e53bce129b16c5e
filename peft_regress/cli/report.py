"""The command `report`: the present numbers in the terminal, or everything as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from peft_regress.cli.options import (
    NamedPath,
    baselines_option,
    format_option,
    output_file,
    print_json,
)
from peft_regress.report.terminal import echo, show

if TYPE_CHECKING:
    from peft_regress.baselines.series import Entry
    from peft_regress.runs.schema import Run

__all__ = ["report_command"]


@click.command("report")
@click.argument("runs", metavar="[RUN]...", type=NamedPath(path_type=Path), nargs=-1)
@click.option("--html", "page", type=output_file, metavar="OUT", help="Write a page to this file.")
@click.option("--cases", "--case", "pattern", metavar="GLOB", help="Only these ids.")
@format_option
@baselines_option
def report_command(
    runs: tuple[Path, ...],
    *,
    page: Path | None,
    pattern: str | None,
    output: str,
    baselines: Path,
) -> None:
    """Show what every pairing costs and how accurate it is, by the storage and the runs RUN.

    Each case's present numbers are those of the run that is named last, else of its newest
    baseline. The page has all entries: fronts, histories, memory, ranks, and what fits a device.
    """
    from peft_regress.gc_pause import paused_gc

    # What is read lives until the end, so that there is nothing to collect meanwhile.
    with paused_gc():
        _report(runs, page=page, pattern=pattern, output=output, baselines=baselines)


def _report(
    runs: tuple[Path, ...],
    *,
    page: Path | None,
    pattern: str | None,
    output: str,
    baselines: Path,
) -> None:
    from peft_regress.baselines.history import read_entries, select_cases

    entries = read_entries(baselines, runs)
    if pattern is not None:
        entries = select_cases(entries, pattern)
    if page is not None:
        _write_page(page, entries)
        return
    if output == "json":
        from peft_regress.report.page.data import page_data

        print_json(page_data(entries, _whole_run))
        return
    from peft_regress.baselines.history import present_entries, present_run
    from peft_regress.report.overview import overview

    names = dict.fromkeys(entries[index].name for index in present_entries(entries).values())
    show(overview(present_run(entries), sources=", ".join(names)), output)


def _write_page(path: Path, entries: list[Entry]) -> None:
    from peft_regress.files import write_atomic
    from peft_regress.report.page.data import page_data
    from peft_regress.report.page.render import render_page

    _check_is_no_entry(path, entries)
    data = page_data(entries, _whole_run)
    content = render_page(data).encode()
    write_atomic(path, content)
    cases = "1 case" if len(data["cases"]) == 1 else f"{len(data['cases'])} cases"
    counted = f"{cases}, {'1 entry' if len(entries) == 1 else f'{len(entries)} entries'}"
    echo(f"wrote {path}: {counted}, {len(content) / 1e6:.1f} MB")


def _check_is_no_entry(path: Path, entries: list[Entry]) -> None:
    """Raise `InputError` where a page would be written over a run that it shows."""
    from peft_regress.errors import InputError

    for entry in entries:
        assert entry.path is not None  # noqa: S101  (it was read from there)
        read = entry.path.resolve()
        if path.resolve() == read or (read.is_dir() and path.resolve() in read.glob("*.json")):
            msg = f"--html {path}: that is a run of this report; name another file for the page"
            raise InputError(msg)


def _whole_run(entry: Entry) -> Run:
    from peft_regress.runs.shards import read_run

    assert entry.path is not None  # noqa: S101  (it was read from there)
    return read_run(entry.path).run
