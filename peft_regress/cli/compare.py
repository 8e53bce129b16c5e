"""The command `peft-regress compare`: judge one run by another, or by a baseline storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from peft_regress.catalogue.matrix import DEFAULT_MATRIX, matrix_cases
from peft_regress.cli.options import (
    USUAL_STORAGE,
    baselines_option,
    format_option,
    output_file,
    print_json,
)
from peft_regress.errors import AbsentError, InputError
from peft_regress.report.terminal import echo, stdout_layout
from peft_regress.text import clean, printable

if TYPE_CHECKING:
    from pathlib import Path

    from peft_regress.gate.verdicts import Observation
    from peft_regress.runs.run_file import RunFile

__all__ = ["compare_command"]


@click.command("compare")
@click.argument("old")
@click.argument("new")
@click.option(
    "--matrix",
    default=DEFAULT_MATRIX,
    show_default=True,
    help="Where OLD is a storage: the matrix whose cases are expected.",
)
@click.option("--strict", is_flag=True, help="Fail on improvements that were not accepted, too.")
@click.option(
    "--save", type=output_file, metavar="PATH", help="Write NEW, all shards, as one run file."
)
@format_option
@baselines_option
@click.pass_context
def compare_command(  # noqa: PLR0913  (arguments and options)
    context: click.Context,
    /,
    old: str,
    new: str,
    *,
    matrix: str,
    strict: bool,
    save: Path | None,
    output: str,
    baselines: Path,
) -> None:
    """Judge run NEW by OLD.

    Each is a run file, a folder with the run files of shards, or an entry of the storage such as
    0001. OLD may also be a baseline storage: NEW is then judged as `pytest benchmarks` judges, each
    case by its newest baseline and by drift, and every case of the matrix is expected.
    """
    from peft_regress import report
    from peft_regress.gate.comparison import Invocation
    from peft_regress.gate.judge import judge
    from peft_regress.gate.verdicts import observations_of

    after = _read_new(baselines, new)
    if save is not None:
        _save(after, save)
    references, expected, storage = _read_old(baselines, old, matrix)
    file = str(save or after.path)
    invocation = Invocation(
        old=old,
        # The name of an entry is valid in its own storage only.
        new=new if save is None and storage == baselines else file,
        file=file,
        baselines=None if storage == USUAL_STORAGE else str(storage),
        strict=strict,
        matrix=None if matrix == DEFAULT_MATRIX else matrix,
        cases=tuple(matrix_cases(matrix)),
    )
    comparison = judge(
        references,
        observations_of(after.run, new),
        expected=expected,
        complete=after.run.selection.complete,
        invocation=invocation,
    )
    if output == "json":
        print_json(report.encode_verdict(comparison))
    elif output == "markdown":
        echo(report.verdict_markdown(comparison), nl=False)
    else:
        notes = []
        if not after.run.selection.complete:
            how = ", ".join(map(clean, after.run.selection.narrowed_by)) or "it did not finish"
            notes = [printable(f"{new} is a partial run ({how})")]
        layout = stdout_layout()
        from peft_regress.report.github import without_commands

        echo(without_commands(report.verdict_text(comparison, layout=layout, notes=notes)))
    context.exit(comparison.exit_code)


def _read_new(baselines: Path, name: str) -> RunFile:
    from peft_regress.baselines.references import find_named
    from peft_regress.runs.shards import read_run

    try:
        found = find_named(baselines, name)
    except AbsentError as error:
        msg = f"{error} Make a run file with `pytest benchmarks --regress-save PATH`."
        raise InputError(msg) from None
    if found.is_storage:
        msg = f"{name}: NEW is a baseline storage; a run file or one entry of it is wanted"
        raise InputError(msg)
    return read_run(found.path)


def _read_old(
    baselines: Path, name: str, matrix: str
) -> tuple[dict[str, Observation], set[str], Path]:
    """Return what judges, the ids of the cases that are expected, and the storage of entries."""
    from peft_regress.baselines.entries import read_runs
    from peft_regress.baselines.references import find_named, references_with_drift
    from peft_regress.catalogue.matrix import matrices_of
    from peft_regress.gate.verdicts import observations_of
    from peft_regress.runs.shards import read_run

    try:
        found = find_named(baselines, name)
    except AbsentError as error:
        msg = f"{error} Make a run file with `pytest benchmarks --regress-save PATH`."
        raise InputError(msg) from None
    if not found.is_storage:
        references = observations_of(read_run(found.path).run, found.origin)
        return references, set(references), baselines
    references = references_with_drift(read_runs(found.path))
    mine = {
        case
        for case, old in references.items()
        if matrix in (matrices_of(old.record.case) or {matrix})
    }
    return references, mine | {case.id for case in matrix_cases(matrix)}, found.path


def _save(made: RunFile, path: Path) -> None:
    from peft_regress.baselines.adapters import gather_adapters
    from peft_regress.files import is_folder
    from peft_regress.runs.run_file import write_run_file

    if is_folder(made.path) and path.parent.resolve() == made.path.resolve():
        msg = f"{path}: lies among the shards, which would then hold every case twice"
        raise InputError(msg)
    write_run_file(path, msgspec.structs.replace(made.run, accepted=None), made.document)
    gather_adapters(made.path, path)
