"""The command `peft-regress watch`."""

from __future__ import annotations

import sys

import click
import msgspec

from peft_regress.cli.options import (
    SectionedCommand,
    examples,
    format_option,
    limit_option,
    print_json,
)
from peft_regress.errors import InputError
from peft_regress.measure.scripts.process import watch_script
from peft_regress.report.terminal import show
from peft_regress.report.watching import watch_document


@click.command(
    "watch",
    cls=SectionedCommand,
    sections={"What to watch": ("is_module", "steps", "env", "time_limit")},
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=examples(
        "peft-regress watch train.py --epochs 1",
        "peft-regress watch --steps 8 -m my_package.train --config small.yaml",
    ),
)
@click.argument("script")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("-m", "is_module", is_flag=True, help="SCRIPT is a module, as `python -m` takes it.")
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=4,
    show_default=True,
    help="End the script after so many optimizer steps.",
)
@click.option(
    "--env",
    metavar="NAME=VALUE",
    multiple=True,
    help="Set this variable for the script, such as HF_HUB_OFFLINE=0; may be repeated.",
)
@limit_option("--time-limit", "How long the steps may take.")
@format_option
def command(  # noqa: PLR0913  (options)
    script: str,
    arguments: tuple[str, ...],
    *,
    is_module: bool,
    steps: int,
    env: tuple[str, ...],
    time_limit: int,
    output: str,
) -> None:
    """Run the training script SCRIPT, unchanged, and show what its first optimizer steps do.

    What the script prints goes to standard error. It gets no network of Hugging Face and of wandb,
    unless --env says otherwise, and ends after its steps: losses, gradient norms, learning rates,
    what trains, FLOPs, and memory by category and module.
    """
    found = watch_script(
        script,
        args=arguments,
        is_module=is_module,
        steps=steps,
        env=dict(map(_variable, env)),
        time_limit=time_limit,
        shows=sys.stderr,
    )
    if output == "json":
        print_json(msgspec.to_builtins(found))
    else:
        show(watch_document(" ".join((script, *arguments)), found), output)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InputError(f"--env {text!r} is not NAME=VALUE")
    return name, value
