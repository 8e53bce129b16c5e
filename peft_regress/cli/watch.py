"""The command `peft-regress watch`."""

import sys
from math import isfinite
from typing import Any, get_args

import click
import msgspec

from peft_regress.cli import options
from peft_regress.errors import InputError
from peft_regress.project.script import Event
from peft_regress.report.watched import watched_document


@options.command(
    "watch",
    "peft-regress watch train.py --epochs 1",
    "peft-regress watch --steps 8 -m my_package.train --config small.yaml",
    "peft-regress watch --until epoch train.py",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("script")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("-m", "is_module", is_flag=True, help="SCRIPT is a module, as `python -m` takes it.")
@options.counted_option(
    "--steps", "N", 4, "End the script after so many optimizer steps.", most=1000
)
@click.option(
    "--until",
    type=click.Choice(get_args(Event)),
    help="Go on to the end of the first epoch, or to the first evaluation: the two steps before it "
    "and the two after it are shown too.",
)
@click.option(
    "--env",
    metavar="NAME=VALUE",
    multiple=True,
    help="Set this variable for the script, such as HF_HUB_OFFLINE=0; may be repeated.",
)
@options.limit_option("--time-limit", "How long the steps may take.")
@options.format_option
def command(
    script: str, arguments: tuple[str, ...], *, env: tuple[str, ...], output: str, **settings: Any
) -> None:
    """Run a training script, unchanged, and show what its first steps do.

    What the script prints goes to standard error. It gets no network of Hugging Face and of wandb,
    unless --env says otherwise, and ends after its steps: losses, gradient norms, learning rates,
    what trains, FLOPs, and memory by category and module.
    """
    from torch.utils._pytree import tree_map

    from peft_regress.measure.scripts.watching import watch_script  # torch

    found = watch_script(
        script, args=arguments, env=dict(map(_variable, env)), shows=sys.stderr, **settings
    )
    document = watched_document(" ".join((script, *arguments)), found)
    options.print_result(output, tree_map(_in_json, msgspec.to_builtins(found)), document)


def _in_json(value: Any) -> Any:
    """Return a value as it is, NaN and infinities as texts, since JSON does not have them."""
    return value if not isinstance(value, float) or isfinite(value) else str(value)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InputError(f"--env {text!r} is not NAME=VALUE")
    return name, value
