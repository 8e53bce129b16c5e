"""The command `peft-regress report`."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from gettext import ngettext
from pathlib import Path
from typing import Any

import click

from peft_regress.baselines.history import (
    newest_index,
    present_entries,
    present_run,
    read_entries,
    select_cases,
)
from peft_regress.baselines.lines import Entry
from peft_regress.baselines.named_runs import check_output
from peft_regress.baselines.references import (
    expected_cases,
    is_complete,
    read_references,
    read_references_before,
)
from peft_regress.catalogue.matrix import built_in_matrices
from peft_regress.catalogue.own_cases import device_classes, usual_matrix, usual_storage
from peft_regress.cli.options import (
    baselines_option,
    cases_option,
    examples,
    format_option,
    output_file,
    print_json,
)
from peft_regress.files import write_atomic
from peft_regress.gate.comparison import Comparison, Invocation, narrow
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import observations_of
from peft_regress.gc_pause import paused_gc
from peft_regress.report.overview import overview
from peft_regress.report.page.data import page_data
from peft_regress.report.page.render import render_page
from peft_regress.report.terminal import say, show
from peft_regress.runs.run_file import read_run
from peft_regress.runs.schema import Run


@click.command(
    "report",
    epilog=examples(
        "peft-regress report",
        "peft-regress report runs/bench.json --cases '*/resnet18'",
        "peft-regress report --html report.html",
    ),
)
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option(
    "--html",
    "page",
    type=output_file,
    metavar="FILE",
    help="Write a page for a browser to this file.",
)
@cases_option()
@format_option
@baselines_option
def command(
    runs: tuple[str, ...],
    *,
    page: Path | None,
    cases: str | None,
    output: str,
    baselines: Path,
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
            print_json(_data(entries, baselines, cases))
        else:
            names = dict.fromkeys(entries[i].name for i in present_entries(entries).values())
            run, devices = present_run(entries), device_classes()
            show(overview(run, sources=", ".join(names), devices=devices), output)


def _write_page(path: Path, entries: list[Entry], baselines: Path, cases: str | None) -> None:
    check_output(path, "--html", storage=baselines, reads=map(_path_of, entries))
    data = _data(entries, baselines, cases)
    content = render_page(data).encode()
    write_atomic(path, content)
    shown, count = len(data["cases"]), len(entries)
    say(
        f"wrote {path}: {shown} {ngettext('case', 'cases', shown)}, "
        f"{count} {ngettext('entry', 'entries', count)}, {len(content) / 1e6:.1f} MB"
    )


def _data(entries: list[Entry], baselines: Path, cases: str | None) -> dict[str, Any]:
    read = functools.cache(_whole_run_at)

    def whole_run(entry: Entry) -> Run:
        return read(_path_of(entry))

    newest = _judge_newest(baselines, entries, whole_run, cases or "*")
    return page_data(entries, whole_run, devices=device_classes(), newest=newest)


def _whole_run_at(path: Path) -> Run:
    """Read a run again, now with its ledgers."""
    return read_run(path).run


def _path_of(entry: Entry) -> Path:
    assert entry.path is not None  # noqa: S101  (`read_entries` read it from there)
    return entry.path


def _judge_newest(
    baselines: Path, entries: Sequence[Entry], whole_run: Callable[[Entry], Run], cases: str
) -> Comparison | None:
    """Judge the last of `entries` that holds a case; `whole_run` reads it with its ledgers.

    A run is judged by the storage, an entry by what the storage held before it. `cases` is a glob;
    it narrows the verdict as `compare --only` does. Expected are the stored cases of the matrix
    that most cases of the run belong to, as in `compare --stored-only`. Return None for an entry
    that is the first with its cases: nothing judges it.
    """
    index = newest_index(entries)
    newest, is_run = entries[index], entries[index].role == "run"
    whole = whole_run(newest)
    references = (
        read_references(baselines, drift=True)
        if is_run
        else read_references_before(
            baselines, {path for one in entries[index:] if (path := one.path)}
        )
    )
    if not is_run and whole.cases.keys().isdisjoint(references):
        return None
    matrix = _matrix_of(whole)
    expected = expected_cases(references, matrix, None)
    if not is_run:
        # What was accepted of a part of the cases leaves the others to older entries.
        expected = expected if whole.selection.complete else set(whole.cases)
        expected -= set(whole.accepted.retired if whole.accepted else ())
    comparison = judge(
        references,
        observations_of(whole, newest.name),
        expected=expected,
        complete=is_complete(whole.selection, ["*"], expected),
        invocation=Invocation(
            old=str(baselines),
            new=newest.name,
            file=str(newest.path),
            baselines=None if baselines == usual_storage() else str(baselines),
            matrix=None if matrix == usual_matrix() else matrix,
        ),
        devices=device_classes(),
    )
    if cases == "*":
        return comparison
    complete = is_complete(whole.selection, [cases], expected)
    return narrow(comparison, cases, complete=complete)


def _matrix_of(run: Run) -> str:
    counts = Counter(name for record in run for name in sorted(built_in_matrices(record.case)))
    return max(counts, key=lambda name: counts[name], default=usual_matrix())
