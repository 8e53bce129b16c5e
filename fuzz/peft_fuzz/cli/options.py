"""What several commands of `peft-fuzz` share: options, and showing what a fuzzing brought."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import click

from peft_fuzz.search.fuzz import FuzzSettings, fuzz
from peft_fuzz.search.report import encode_fuzzed, fuzz_document
from peft_regress.baselines.named_runs import check_output
from peft_regress.cli import options
from peft_regress.report.terminal import print_progress, show, write_markdown
from peft_regress.text import clean
from peft_regress.workers.pool import Pool

corpus_option = click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    default=Path("fuzz/corpus"),
    show_default=True,
    help="Folder of the known defects.",
)
summary_option = options.file_option(
    "--summary", help_text="Write the result to this file, as Markdown."
)
ENVIRONMENT_OPTIONS: Final = (
    click.option("--pre", is_flag=True, help="Allow pre-releases."),
    click.option("--yes", "replace_torch", is_flag=True, help="Allow another build of torch."),
)


def finding_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the commands that find defects."""
    added = (
        click.argument("requirements", metavar="[REQUIREMENT]...", nargs=-1),
        click.option(
            "--methods",
            metavar="GLOB",
            default="*",
            show_default=True,
            help="Only methods whose name matches, such as 'lo*'.",
        ),
        *ENVIRONMENT_OPTIONS,
        options.limit_option("--time-limit", "How long one life may take.", seconds=60),
        click.option(
            "--save",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="FOLDER",
            default=Path("runs/fuzz"),
            show_default=True,
            help="Write each finding to this folder as soon as it is found.",
        ),
        summary_option,
        corpus_option,
        options.format_option,
        click.pass_context,
    )
    return functools.reduce(lambda made, option: option(made), reversed(added), command)


def say(text: str) -> None:
    """Print a line of progress."""
    print_progress(clean(text, longest=400))


def fuzz_and_show(
    requirements: Sequence[str],
    settings: FuzzSettings,
    cluster: Pool | None = None,
    *,
    summary: Path | None,
    output: str,
) -> int:
    """Fuzz, print the result, write the summary, and return the exit code."""
    for option, path in (("--save", settings.save), ("--summary", summary)):
        if path is not None:
            check_output(path, option, storage=settings.corpus, kind="corpus")
    result = fuzz(requirements, settings, progress=say, cluster=cluster)
    if output == "json":
        options.print_json(encode_fuzzed(result))
    else:
        show(fuzz_document(result, with_scripts=output == "markdown"), output)
    # Last, since it may fail: minutes of search are on the screen by then.
    if summary is not None:
        write_markdown(summary, fuzz_document(result, with_scripts=True))
        print_progress(f"summary: {summary}")
    return result.exit_code
