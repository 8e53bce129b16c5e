"""What several commands of `peft-fuzz` share: options, and showing what a fuzzing brought."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import click

from peft_fuzz.search.fuzz import INTERRUPTED, Fuzzed, FuzzSettings, fuzz
from peft_fuzz.search.report import (
    Shown,
    encode_fuzzed,
    fuzz_document,
    grouped,
    output_of,
    script_unrun,
)
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
summary_option = click.option(
    "--summary",
    type=options.output_file,
    metavar="FILE",
    help="Write the result to this file, as Markdown.",
)
ENVIRONMENT_OPTIONS: Final = (
    click.option("--pre", is_flag=True, help="Allow pre-releases."),
    click.option("--yes", "replace_torch", is_flag=True, help="Allow another build of torch."),
    options.pip_limit_option,
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
    """Fuzz, print the result, write the summary, and return the exit code.

    Raises `InputError` as `fuzz` does, for an output inside the corpus, and for a summary that
    cannot be written.
    """
    for option, path in (("--save", settings.save), ("--summary", summary)):
        if path is not None:
            check_output(path, option, storage=settings.corpus, kind="corpus")
    scripts: dict[str, Shown] = {}

    def finish(result: Fuzzed) -> None:
        """Run the scripts while the environment exists: some seconds each."""
        if summary is None and output == "text":
            return
        smallest = [group[0] for group in grouped(result.found)]
        scripts.update({one.name: script_unrun(one) for one in smallest})
        if INTERRUPTED in result.problems:
            return  # whoever ends it does not want to wait
        try:
            for number, (name, shown) in enumerate(list(scripts.items()), start=1):
                say(f"[{number}/{len(scripts)}] running the script of {name}")
                scripts[name] = output_of(shown.script, result.environment.python)
        except KeyboardInterrupt:
            result.problems.append(INTERRUPTED)

    result = fuzz(requirements, settings, progress=say, finish=finish, cluster=cluster)
    if output == "json":
        options.print_json(encode_fuzzed(result, scripts))
    else:
        show(fuzz_document(result, scripts if output == "markdown" else None), output)
    if summary is not None:
        write_markdown(summary, fuzz_document(result, scripts))
        print_progress(f"summary: {summary}")
    return result.exit_code
