"""The command `peft-regress compare`."""

import contextlib
from pathlib import Path

import click
import msgspec

from peft_regress import report
from peft_regress.baselines.named_runs import check_output, find_input
from peft_regress.baselines.references import expected_cases, is_complete, read_references
from peft_regress.baselines.run_adapters import gathered_adapters
from peft_regress.cases import matching_ids
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.cli import options
from peft_regress.errors import InputError
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import observations_of
from peft_regress.project.project import current_project
from peft_regress.report.sentences import narrowing_words
from peft_regress.report.terminal import echo, stdout_layout
from peft_regress.runs.run_file import RunFile, write_run_file
from peft_regress.text import printable


@options.command(
    "compare",
    "peft-regress compare baselines runs/bench.json",
    "peft-regress compare 0004 0007 --cases 'shift/dora-r4/*'",
)
@click.argument("old")
@click.argument("new")
@options.matrix_option_with("If OLD is a storage: expect the cases of this matrix.")
@options.cases_option("Expect, judge and show only the cases whose id matches.", default="*")
@options.strict_option
@options.file_option(
    "--save", help_text="Write NEW to this file; the shards of a folder become one run."
)
@options.format_option
@click.option(
    "--stored-only",
    is_flag=True,
    help="Expect only what OLD holds, and import no case of the project: for a judge in CI.",
)
@options.baselines_option
def command(  # noqa: PLR0913  (arguments and options)
    old: str,
    new: str,
    *,
    matrix: str,
    cases: str,
    strict: bool,
    stored_only: bool,
    save: Path | None,
    output: str,
    baselines: Path,
) -> int:
    """Judge run NEW by OLD.

    Each is a run file, a folder of shards, an entry of the storage such as 0001, or the `.journal`
    that an interrupted run left. OLD may also be a baseline storage. It then judges as in
    `pytest benchmarks`: each case by its newest baseline and by drift, and every case of the matrix
    is expected.
    """
    of_matrix = None if stored_only else tuple(matrix_cases(matrix))
    after = find_input(baselines, new).read()
    if save is not None:
        _save(after, save, baselines, old)
    before = find_input(baselines, old)
    # The name of an entry works only in its own storage.
    storage = before.path if before.is_storage else baselines
    if before.is_storage:
        references = read_references(storage, drift=True)
        expected = expected_cases(references, matrix, of_matrix)
    else:
        references = before.observations()
        expected = set(references)
    file = str(save or after.path)
    named = new if save is None and storage == baselines else file
    invocation = options.invocation_of(
        storage, matrix, old=old, new=named, file=file, strict=strict, cases=cases
    )
    selection = after.run.selection
    if cases != "*":
        matching_ids({*expected, *after.run.cases, *selection.not_selected}, cases)
    complete = is_complete(selection, cases, expected)
    comparison = judge(
        references,
        observations_of(after.run, new),
        expected=expected,
        complete=complete,
        invocation=invocation,
        devices=current_project().devices,
    )
    if output == "json":
        options.print_json(report.encode_verdict(comparison))
    elif output == "markdown":
        echo(report.verdict_markdown(comparison), nl=False)
    else:
        partial = printable(f"{new} is a partial run ({narrowing_words(selection)})")
        notes, layout = [] if complete else [partial], stdout_layout()
        echo(report.verdict_text(comparison, layout=layout, notes=notes), layout=layout)
    return comparison.exit_code


def _save(made: RunFile, path: Path, baselines: Path, old: str) -> None:
    """Write the run, also if OLD cannot be read, which is said later."""
    storages, reads = [baselines], [made.path]
    with contextlib.suppress(InputError):
        before = find_input(baselines, old)
        (storages if before.is_storage else reads).append(before.path)
    for storage in storages:
        check_output(path, "--save", storage=storage, reads=reads)
    with gathered_adapters(made.path, path):
        write_run_file(path, msgspec.structs.replace(made.run, accepted=None), made.document)
