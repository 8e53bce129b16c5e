"""The command `peft-regress export`: a run as CSV by RFC 4180, a row for each case and metric."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import click

from peft_regress.baselines.named_runs import check_output, find_input
from peft_regress.cli.options import baselines_option, cases_option, examples, output_file
from peft_regress.errors import AbsentError
from peft_regress.files import write_atomic
from peft_regress.report.terminal import say, standard_output
from peft_regress.runs.schema import Record, Run
from peft_regress.text import clean, printable

COLUMNS: Final = (
    "case",
    "task",
    "method",
    "rank",
    "architecture",
    "status",
    "metric",
    "value",
    "unit",
    "direction",
    "kind",
    "samples",
    "error",
    "repeats",
)


@click.command(
    "export",
    epilog=examples(
        "peft-regress export runs/bench.json --output numbers.csv",
        "peft-regress export 0017 --cases 'shift/*' --metric 'peak*'",
    ),
)
@click.argument("run")
@click.option(
    "--output", type=output_file, metavar="FILE", help="Write to this file, not to the terminal."
)
@cases_option(default="*")
@click.option(
    "--metric", default="*", metavar="GLOB", help="Only metrics that match, such as 'peak*'."
)
@baselines_option
def command(run: str, *, output: Path | None, cases: str, metric: str, baselines: Path) -> None:
    """Write the numbers of RUN as CSV, for other tools.

    RUN is a run file, a folder of shards, or an entry of the storage.
    """
    found = find_input(baselines, run)
    if output is not None:
        check_output(output, "--output", storage=baselines, reads=[found.path])
    text = csv_table(found.read().run, cases=cases, metric=metric)
    if output is None:
        click.echo(text.encode(), file=standard_output(), nl=False)
        return
    write_atomic(output, text.encode())
    say(f"wrote {output}", err=True)


def csv_table(run: Run, *, cases: str = "*", metric: str = "*") -> str:
    """Return a header and rows; numbers are exact and unscaled, `samples` are JSON.

    `cases` and `metric` are globs. A case without metrics has one row, with its status and error.
    Raises `AbsentError` if nothing matches.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="")
    writer.writeheader()
    chosen = [record for name, record in run.cases.items() if fnmatchcase(name, cases)]
    known = {name for record in chosen for name in record.metrics}
    if not chosen:
        some = ", ".join(map(clean, [*run.cases][:3])) or "none"
        raise AbsentError(f"--cases {cases!r} matches none of the cases of the run, e.g. {some}")
    if known and not any(fnmatchcase(name, metric) for name in known):
        names = clean(", ".join(sorted(known)), longest=2000)
        raise AbsentError(f"--metric {metric!r} matches none of the metrics of the cases: {names}")
    for record in chosen:
        writer.writerows(_rows(record, metric))
    return stream.getvalue()


def _rows(record: Record, pattern: str) -> Iterator[dict[str, Any]]:
    case, error = record.case, record.error
    common = {
        "case": printable(case.id),
        "task": printable(case.task),
        "method": printable(case.method),
        "rank": "" if case.rank is None else case.rank,
        "architecture": printable(case.architecture),
        "status": record.status,
        "error": "" if error is None else printable(f"{error.type}: {error.message}"),
        "repeats": printable(record.repeated_run or ""),
    }
    for name, metric in record.metrics.items():
        if fnmatchcase(name, pattern):
            yield common | {
                "metric": printable(name),
                "value": metric.value,
                "unit": metric.unit,
                "direction": metric.direction,
                "kind": metric.kind,
                "samples": "" if metric.samples is None else json.dumps(metric.samples),
            }
    if not record.metrics:
        yield common
