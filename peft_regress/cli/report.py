"""The command `peft-regress report`."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from peft_regress.baselines.history import (
    Entry,
    present_entries,
    present_run,
    read_entries,
    select_cases,
)
from peft_regress.baselines.named_runs import check_output
from peft_regress.baselines.references import (
    expected_cases,
    is_complete,
    read_references,
)
from peft_regress.catalogue.matrix import built_in_matrices
from peft_regress.catalogue.own_cases import device_classes, usual_matrix
from peft_regress.cli import options
from peft_regress.files import write_atomic
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import Observation, observations_of
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

Pair = tuple[int, int]
"""The indices of the entries OLD and NEW."""

_MOST_ENTRIES: Final = 24
"""So many of the newest entries are judged: the ledgers of each must be read."""
_EVERY_PAIR: Final = 8
"""Of so many, every pair is judged; of the others, neighbours."""


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

    typed = options.invocation_of(baselines, usual_matrix())
    return Content(
        entries=entries,
        whole_run=whole_run,
        devices=device_classes(),
        newest=judge_newest(baselines, entries, whole_run, cases or "*"),
        pairs=judged_pairs(entries, typed, whole_run=whole_run),
        typed=typed,
    )


# --- The verdicts that a page shows ---------------------------------------------------------------


def judge_newest(
    baselines: Path, entries: Sequence[Entry], whole_run: Callable[[Entry], Run], cases: str
) -> tuple[int, Comparison] | None:
    """Judge the last of `entries` that something judges; return its index, and the comparison.

    A run that was named is always judged, by the storage, even if it holds no case. An entry is
    judged by what the storage held before it; entries of the usual matrix come first. None if each
    entry is the first with its cases. `whole_run` reads an entry with its ledgers. `cases` is a
    glob, as in `compare --cases`. Expected are the stored cases of the matrix that most cases of
    the run belong to, as in `compare --stored-only`.
    """
    last = len(entries) - 1
    if entries[last].role == "run":
        references = read_references(baselines, drift=True)
        return last, _judge(baselines, entries[last], whole_run(entries[last]), cases, references)
    held = [index for index in reversed(range(len(entries))) if entries[index].run.cases]
    usual = [index for index in held if _matrix_of(entries[index].run) == usual_matrix()]
    for index in dict.fromkeys((*usual, *held)):
        later = {one.path for one in entries[index:]}
        references = read_references(baselines, drift=True, without=later)
        if not entries[index].run.cases.keys().isdisjoint(references):
            whole = whole_run(entries[index])
            return index, _judge(baselines, entries[index], whole, cases, references)
    return None


def _judge(
    baselines: Path, newest: Entry, whole: Run, cases: str, references: Mapping[str, Observation]
) -> Comparison:
    matrix = _matrix_of(whole)
    expected = expected_cases(references, matrix, None)
    if newest.role != "run":
        # What was accepted of a part of the cases leaves the others to older entries.
        expected = expected if whole.selection.complete else set(whole.cases)
        expected -= set(whole.accepted.retired if whole.accepted else ())
    return judge(
        references,
        observations_of(whole, newest.name),
        expected=expected,
        complete=is_complete(whole.selection, cases, expected),
        invocation=options.invocation_of(
            baselines,
            matrix,
            old=str(baselines),
            new=newest.name,
            file=str(newest.path),
            cases=cases,
        ),
        devices=device_classes(),
    )


def _matrix_of(run: Run) -> str:
    counts = Counter(name for record in run for name in sorted(built_in_matrices(record.case)))
    return max(counts, key=lambda name: counts[name], default=usual_matrix())


def judged_pairs(
    entries: Sequence[Entry], typed: Invocation, *, whole_run: Callable[[Entry], Run]
) -> dict[Pair, Comparison]:
    """Return the verdicts on the chosen pairs; `typed` names the storage and the suite."""

    @functools.cache
    def observed(index: int) -> dict[str, Observation]:
        entry = entries[index]
        every = observations_of(whole_run(entry), entry.name)
        return {case: every[case] for case in entry.run.cases}

    found = {}
    for pair in chosen_pairs(entries):
        old, new = (entries[index] for index in pair)
        found[pair] = judge(
            *map(observed, pair),
            complete=is_complete(new.run.selection, "*", old.run.cases),
            invocation=replace(typed, old=old.name, new=new.name),
            devices=device_classes(),
        )
    return found


def chosen_pairs(entries: Sequence[Entry]) -> list[Pair]:
    """Return the pairs of entries to judge, each with a common case.

    These are neighbours, each entry with the newest, and every pair of the newest.
    """
    cases = [entry.run.cases.keys() for entry in entries]
    newest = range(len(entries))[-_MOST_ENTRIES:]
    found = {(at, newest[-1]) for at in newest[:-1]}
    found |= {*itertools.permutations(newest[-_EVERY_PAIR:], 2)}
    for at in newest:
        earlier = (one for one in range(at - 1, newest[0] - 1, -1) if cases[one] & cases[at])
        found |= {(one, at) for one in itertools.islice(earlier, 1)}
    return sorted(pair for pair in found if cases[pair[0]] & cases[pair[1]])
