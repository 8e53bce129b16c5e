"""The command `peft-regress accept`."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from peft_regress.baselines.accept import Accepted, accept_run, renew_current
from peft_regress.baselines.named_runs import find_named
from peft_regress.cli import options
from peft_regress.report import contents_line
from peft_regress.report.sentences import false_invariants
from peft_regress.report.terminal import print_progress, say
from peft_regress.runs.run_file import read_run
from peft_regress.text import count_of


@options.command(
    "accept",
    "peft-regress accept runs/bench.json --reason 'peft 0.21 frees activations'",
    "peft-regress accept runs/old.json --reason 'how peft 0.14 was' --history",
)
@click.argument("run", metavar="[RUN]", required=False)
@click.option(
    "--reason",
    metavar="TEXT",
    help="Why the new numbers are right, in one line; of an entry by default its own.",
)
@click.option(
    "--history/--no-history",
    default=None,
    help="Store the run for `history` only: it judges nothing. An entry keeps its role by default.",
)
@click.option(
    "--retire",
    multiple=True,
    metavar="GLOB",
    help="Expect these cases no longer: they were renamed or removed; may be repeated.",
)
@click.option(
    "--allow-errors",
    multiple=True,
    metavar="CASE",
    help="Accept these cases, a glob, although they are in error; may be repeated.",
)
@click.option(
    "--renew",
    is_flag=True,
    help="Accept nothing; write anew the files `current.txt`, which say what judges each case.",
)
@options.baselines_option
def command(run: str | None, baselines: Path, *, renew: bool, **settings: Any) -> None:
    """Store RUN in the baseline storage, so that it judges later runs.

    RUN is a run file, a folder of shards, or an entry of another branch, which keeps its reason,
    role and retired cases.
    """
    if renew:
        options.refuse_beside("--renew", {"run", *settings}, "it accepts nothing")
        for path in renew_current(baselines):
            say(f"wrote {path}")
        return
    if run is None:
        raise click.UsageError("name the RUN to accept")
    source = find_named(baselines, run).of_one_run()
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    for what, ids in false_invariants(read_run(source).run).items():
        more = f" and {len(ids) - 1} more" if ids[1:] else ""
        print_progress(f"{ids[0]}{more}: {what}")
    done = accept_run(source, root=baselines, date=date, **settings)
    # Only now: without a reader the entry is stored all the same.
    for line in _lines(done, source):
        say(line)


def _lines(done: Accepted, source: Path) -> Iterator[str]:
    if not done.is_new:
        yield f"already stored as {done.path}: the same run, accepted for the same reason"
        return
    accepted = done.run.accepted
    assert accepted is not None  # noqa: S101  (an entry)
    yield f"stored {done.path}"
    if done.run.cases:
        yield contents_line(done.run)
    if accepted.role == "history":
        yield "it judges nothing: its role is history"
    elif done.run.cases:
        yield f"it judges {done.judges} of {count_of(done.expected, 'expected case')} from now on"
    if accepted.repeats:
        entries = ", ".join(dict.fromkeys(accepted.repeats.values()))
        cases = count_of(len(accepted.repeats), "case")
        yield f"it confirms {entries} in {cases}, without anything new"
    new, older = list(done.adapters.new.values()), done.adapters.older
    if older:
        yield f"{count_of(len(older), 'older adapter')} kept"
    if new:
        yield f"adapters stored: {' '.join(one.stored.case for one in new)}"
    if accepted.role == "baseline" and not new and not older:
        yield f"no adapters stored: there are none beside {source}"
    if accepted.retired:
        yield f"{len(accepted.retired)} retired: {' '.join(accepted.retired)}"
