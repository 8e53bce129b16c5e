"""Options that several commands share, and how they print progress and results."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from peft_regress.baselines.named_runs import check_output
from peft_regress.errors import InputError
from peft_regress.files import resolved
from peft_regress.gate.comparison import Invocation
from peft_regress.interrupts import ending_signals_interrupt
from peft_regress.project.project import current_project
from peft_regress.report.document import Document
from peft_regress.report.sentences import REPEATED
from peft_regress.report.terminal import echo, print_progress, show, write_markdown
from peft_regress.runner.keeper import kept_records
from peft_regress.runs.schema import Record
from peft_regress.text import clean
from peft_regress.workers.pool import Pool, default_jobs

if TYPE_CHECKING:
    from peft_regress.runner.measuring import MeasuringSetup

format_option = click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "markdown"]),
    metavar="FORMAT",
    default="text",
    show_default=True,
    help="Print text, json or markdown.",
)
baselines_option = click.option(
    "--baselines",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    default=lambda: current_project().storage,
    show_default="that of pyproject.toml, else baselines",
    help="Folder of the baseline storage.",
)
strict_option = click.option(
    "--strict", is_flag=True, help="Fail also on improvements that nobody has accepted."
)


def file_option(*names: str, help_text: str, **settings: Any) -> Callable[[Any], Any]:
    """Return an option for a file to write; a folder is refused before minutes of work."""
    kind = click.Path(path_type=Path, dir_okay=False, readable=False, writable=True)
    return click.option(*names, type=kind, metavar="FILE", help=help_text, **settings)


def examples(*lines: str) -> str:
    """Return the end of a help text: commands, on lines that click does not wrap."""
    title = "Examples:" if lines[1:] else "Example:"
    return "\n".join(("\b", title, *(f"  {line}" for line in lines)))


def command(name: str, *lines: str, **settings: Any) -> Callable[[Callable[..., int | None]], Any]:
    """Declare a command whose help ends in these examples; it returns its exit code, None for 0."""
    return click.command(name, epilog=examples(*lines), **settings)


def invocation_of(baselines: Path, matrix: str, **typed: Any) -> Invocation:
    """Return what was typed, so that the printed commands work in this project."""
    project = current_project()
    suite = [str(project.suite)]
    is_usual = resolved(baselines) == resolved(project.storage)
    return Invocation(
        suite=shlex.join(suite if is_usual else [*suite, "--regress-baseline", str(baselines)]),
        baselines=None if is_usual else str(baselines),
        matrix=None if matrix == project.matrix else matrix,
        **typed,
    )


def matrix_option_with(help_text: str) -> Callable[[Any], Any]:
    """Return the option `--matrix`, by default the matrix of the project's settings."""
    return click.option(
        "--matrix",
        metavar="NAME",
        default=lambda: current_project().matrix,
        show_default="that of pyproject.toml, else default",
        help=help_text,
    )


matrix_option = matrix_option_with(
    "Take the cases of this matrix: `default`, `extended`, `edge`, or your own."
)


def cases_option(
    help_text: str = "Only cases whose id matches, such as 'shift/*'.", **settings: Any
) -> Callable[[Any], Any]:
    """Return the option `--cases`; `settings` are those of `click.option`."""
    return click.option("--cases", "--case", metavar="GLOB", help=help_text, **settings)


def jobs_option(
    help_text: str, *, default: Callable[[], int] | None = default_jobs
) -> Callable[[Any], Any]:
    """Return the option `--jobs`: how many processes work at once."""
    return click.option(
        "--jobs", type=click.IntRange(1, 64), metavar="N", default=default, help=help_text
    )


also_install_option = click.option(
    "--with",
    "also_install",
    multiple=True,
    metavar="REQUIREMENT",
    help="Install this requirement with each release; may be repeated.",
)
replace_torch_option = click.option(
    "--yes", "replace_torch", is_flag=True, help="Allow another build of torch."
)
summary_option = file_option("--summary", help_text="Write the findings to this file, as Markdown.")

_MOST: Final = 65536
WHOLE: Final = click.IntRange(1, _MOST)


def counted_option(
    name: str, metavar: str, usual: int, help_text: str, *, most: int | None = _MOST
) -> Callable[[Any], Any]:
    """Return an option that is a whole number from 1 to `most`."""
    allowed = click.IntRange(1, most)
    return click.option(
        name, type=allowed, metavar=metavar, default=usual, show_default=True, help=help_text
    )


def limit_option(name: str, help_text: str, *, seconds: int = 600) -> Callable[[Any], Any]:
    """Return an option that limits a time; `seconds` is its default."""
    return counted_option(name, "SECONDS", seconds, help_text, most=86400)


def on_option(does: str) -> Callable[[Any], Any]:
    """Return the option `on`: whose workers do something."""
    return click.option(
        "--on",
        default="local",
        show_default=True,
        metavar="ADDRESS",
        help=f"{does} by workers of this machine (`local`), or by those of a Dask scheduler, "
        "such as tcp://10.0.0.5:8786.",
    )


@contextlib.contextmanager
def ready_to_measure(
    setup: MeasuringSetup, on: str, *, save: Path | None, resume: Path | None
) -> Iterator[MeasuringSetup]:
    """Give the setup with what `--on` names, and with what keeps records; signals interrupt it."""
    with (
        ending_signals_interrupt(),
        opened_pool(on, setup, say=print_sentence) as pool,
        kept_records(save, resume, print_sentence) as keeper,
    ):
        yield replace(setup, keeper=keeper, pool=pool)


def opened_pool(
    on: str,
    setup: MeasuringSetup,
    *,
    say: Callable[[str], None],
    code: Sequence[str] = ("peft_regress",),
) -> contextlib.AbstractContextManager[Pool | None]:
    """Connect to what `--on` names; None for workers of this machine.

    code: the packages whose code must be the same there. Raises `InputError` and `AbsentError` for
    a cluster that cannot be used.
    """
    if on == "local":
        return contextlib.nullcontext()
    if find_spec("distributed") is None:
        problem = "--on needs Dask, which is not installed: pip install 'distributed>=2025.3'"
        raise InputError(problem)
    # `--help` does not wait for Dask.
    from peft_regress.workers.cluster import opened_cluster

    return opened_cluster(
        on, setup.project, code, baselines=setup.baselines, time_limit=setup.time_limit, say=say
    )


def measuring_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options of commands that let workers measure; `ready` gives a `MeasuringSetup`."""

    @functools.wraps(command)
    def with_setup(
        *arguments: Any,
        baselines: Path,
        jobs: int,
        time_limit: int,
        on: str,
        resume: Path | None,
        **others: Any,
    ) -> int:
        from peft_regress.runner.measuring import MeasuringSetup

        for name in ("save", "summary"):
            if others.get(name) is not None:
                check_output(others[name], f"--{name}", storage=baselines)
        project, replaces = current_project(), others.pop("replace_torch", False)
        pip = replace(project.settings.pip, replace_torch=replaces)
        setup = MeasuringSetup(
            project=project, pip=pip, baselines=baselines, jobs=jobs, time_limit=time_limit
        )
        ready = ready_to_measure(setup, on, save=others.get("save"), resume=resume)
        return command(*arguments, ready=ready, **others)

    options = (
        on_option("Measure"),
        jobs_option("Measure this many cases at once (default: one per core)."),
        click.option(
            "--resume",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="Take what an earlier try measured in the same packages and commit, by its run "
            "file or journal; without --save a journal here keeps what is measured.",
        ),
        limit_option("--time-limit", "How long one case may take."),
        baselines_option,
    )
    return functools.reduce(lambda made, option: option(made), reversed(options), with_setup)


def print_sentence(text: str) -> None:
    """Print a sentence about the progress."""
    print_progress(clean(text, longest=400))


def record_printer(side: str, count: int, *, pool: Pool | None) -> Callable[[Record], None]:
    """Return a function that prints a line for each of so many cases of a side."""
    done = itertools.count(1)

    def print_record(record: Record) -> None:
        state = "" if record.status == "ok" else f" {clean(record.status_text)}"
        state = f" {REPEATED}" if record.is_repeat else state
        name = f"{side} {record.case.id}" if side else record.case.id
        status = "" if pool is None else f" ({pool.status})"
        print_progress(f"[{next(done)}/{count}] {name}{state}{status}")

    return print_record


def print_json(value: Any) -> None:
    """Print a JSON value. No string in it changes, though none is a command in a log."""
    echo(json.dumps(value, indent=2, allow_nan=False).replace("##[", r"\u0023#["))


def print_result(output: str, encoded: Any, document: Document) -> None:
    """Print a result as JSON, or its document as text or Markdown."""
    if output == "json":
        print_json(encoded)
    else:
        show(document, output)


def print_findings(
    output: str, encoded: Any, document: Document, issue: Document, summary: Path | None
) -> None:
    """Write an issue for maintainers to the file of `--summary`, and print the result."""
    if summary is not None:
        write_markdown(summary, issue)
        print_progress(f"summary: {summary}")
    print_result(output, encoded, document)


def was_typed(name: str) -> bool:
    """Return whether a parameter of the command was typed."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def refuse_beside(option: str, names: Collection[str], reason: str) -> None:
    """Refuse those of some parameters that were typed beside an option."""
    for parameter in click.get_current_context().command.params:
        if parameter.name in names and was_typed(str(parameter.name)):
            raise InputError(f"{parameter.opts[0]} does not go with {option}: {reason}")
