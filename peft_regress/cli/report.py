"""The command `peft-regress report`."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from peft_regress.baselines import history
from peft_regress.baselines.named_runs import check_output
from peft_regress.baselines.references import expected_cases, is_complete
from peft_regress.catalogue.matrix import built_in_matrices
from peft_regress.cli import options
from peft_regress.files import write_atomic
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import observations_of
from peft_regress.gc_pause import paused_gc
from peft_regress.project.project import current_project
from peft_regress.report.page.content import Content
from peft_regress.report.page.data import page_data
from peft_regress.report.page.render import render_page
from peft_regress.report.page.views import page_parts
from peft_regress.report.results import overview
from peft_regress.report.terminal import say, show
from peft_regress.runs.schema import Run
from peft_regress.text import count_of

Pair = tuple[int, int]
"""The indices of the entries OLD and NEW."""

_MOST_ENTRIES: Final = 24
"""So many of the newest entries are judged."""
_EVERY_PAIR: Final = 8
"""Of so many, every pair is judged; of the others, neighbours."""


@options.command(
    "report",
    "peft-regress report",
    "peft-regress report runs/bench.json --cases '*/resnet18'",
    "peft-regress report --html report.html",
)
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@options.file_option("--html", "page", help_text="Write a page for a browser to this file.")
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
        every = history.read_entries(baselines, runs)
        entries = every if cases is None else history.select_cases(every, cases)
        if page is None and output != "json":
            present = history.present_entries(entries).values()
            names = dict.fromkeys(entries[index].name for index in present)
            shown = history.present_records(entries).values()
            show(overview(shown, sources=", ".join(names)), output)
            return
        if page is not None:
            check_output(page, "--html", storage=baselines, reads=[one.path for one in entries])
        typed = options.invocation_of(baselines, current_project().matrix)
        content = Content(
            entries=entries,
            devices=current_project().devices,
            newest=judge_newest(baselines, entries, every, cases or "*"),
            pairs=judged_pairs(entries, typed),
            typed=typed,
        )
        if page is None:
            options.print_json(page_data(content))
        else:
            written = render_page(page_parts(content)).encode()
            write_atomic(page, written)
            count = count_of(len(content.entries), "entry", "entries")
            size = f"{len(written) / 1e6:.1f} MB"
            say(f"wrote {page}: {count_of(len(content.cases), 'case')}, {count}, {size}")


def judge_newest(
    baselines: Path, entries: Sequence[history.Entry], every: Sequence[history.Entry], cases: str
) -> tuple[int, Comparison] | None:
    """Judge the last of `entries` that something judges; return its index, and the comparison.

    A run that was named is always judged, by the storage, even if it holds no case. An entry is
    judged by what the storage held before it; entries of the usual matrix come first. None if each
    entry is the first with its cases. `every` are the same entries with all of their cases. `cases`
    is a glob, as in `compare --cases`. Expected are the stored cases of the matrix that most cases
    of the run belong to, as in `compare --stored-only`.
    """
    last = len(entries) - 1
    if entries[last].role == "run":
        return last, _judge(baselines, every[last], cases)
    held = [index for index in reversed(range(len(entries))) if entries[index].run.cases]
    usual = [index for index in held if _matrix_of(entries[index].run) == current_project().matrix]
    for index in dict.fromkeys((*usual, *held)):
        if not entries[index].run.cases.keys().isdisjoint(entries[index].references):
            return index, _judge(baselines, every[index], cases)
    return None


def _judge(storage: Path, newest: history.Entry, cases: str) -> Comparison:
    run, references = newest.run, newest.references
    matrix = _matrix_of(run)
    expected = expected_cases(references, matrix, None)
    if newest.role != "run":
        # What was accepted of a part of the cases leaves the others to older entries.
        expected = expected if run.selection.complete else set(run.cases)
        expected -= set(run.accepted.retired if run.accepted else ())
    return judge(
        references,
        observations_of(run, newest.name),
        expected=expected,
        complete=is_complete(run.selection, cases, expected),
        invocation=options.invocation_of(
            storage, matrix, old=str(storage), new=newest.name, file=str(newest.path), cases=cases
        ),
        devices=current_project().devices,
    )


def _matrix_of(run: Run) -> str:
    counts = Counter(name for record in run for name in sorted(built_in_matrices(record.case)))
    return max(counts, key=lambda name: counts[name], default=current_project().matrix)


def judged_pairs(entries: Sequence[history.Entry], typed: Invocation) -> dict[Pair, Comparison]:
    """Return the verdicts on the chosen pairs; `typed` names the storage and the suite."""
    observed = [observations_of(entry.run, entry.name) for entry in entries]
    found = {}
    for pair in chosen_pairs(entries):
        old, new = (entries[index] for index in pair)
        found[pair] = judge(
            *(observed[index] for index in pair),
            complete=is_complete(new.run.selection, "*", old.run.cases),
            invocation=replace(typed, old=old.name, new=new.name),
            devices=current_project().devices,
        )
    return found


def chosen_pairs(entries: Sequence[history.Entry]) -> list[Pair]:
    """Return pairs with a common case: neighbours, all with the newest, all pairs of the newest."""
    cases = [entry.run.cases.keys() for entry in entries]
    newest = range(len(entries))[-_MOST_ENTRIES:]
    found = {(at, newest[-1]) for at in newest[:-1]}
    found |= {*itertools.permutations(newest[-_EVERY_PAIR:], 2)}
    for at in newest:
        earlier = (one for one in range(at - 1, newest[0] - 1, -1) if cases[one] & cases[at])
        found |= {(one, at) for one in itertools.islice(earlier, 1)}
    return sorted(pair for pair in found if cases[pair[0]] & cases[pair[1]])
