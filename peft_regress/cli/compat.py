"""The command `peft-regress compat`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from peft_regress import registry
from peft_regress.cli import options
from peft_regress.interrupts import ending_signals_interrupt
from peft_regress.project.project import current_project
from peft_regress.report import compat as compat_report
from peft_regress.upgrades.compat.adapter import read_adapter
from peft_regress.upgrades.compat.compat import CompatSettings, compat
from peft_regress.upgrades.compat.releases import BaseModel


def _shape(_: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(
            f"{text!r} is no shape: write sizes with commas, such as 4,3,32,32", param=option
        )
    return sizes


@options.command(
    "compat",
    "peft-regress compat lora --base nets:make --shape 4,3,32,32",
    "peft-regress compat lora --base resnet18 --releases 0.14..",
)
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "--base",
    metavar="NAME",
    help="The model that the adapter is for: `pkg.mod:callable`, which returns it with weights, or "
    "an architecture of the catalogue, such as resnet18.",
)
@click.option(
    "--inputs",
    metavar="PATH",
    help="`pkg.mod:callable`, which returns a batch: a tensor, or a tuple or mapping of them "
    "(default: the model's dummy_inputs; images for an architecture of the catalogue).",
)
@click.option(
    "--shape",
    callback=_shape,
    metavar="SIZES",
    help="Draw inputs of this shape instead: 4,3,32,32.",
)
@click.option(
    "--releases",
    metavar="RANGE",
    help="Releases of peft, such as 0.10.0..0.21.2, 0.14.. or 0.12.0,0.21.2 (default: the last "
    "patch of each minor release from 0.10 on).",
)
@click.option(
    "--saved-by",
    metavar="VERSION",
    help="The release that saved the adapter, to compare with (default: what its configuration "
    "says, since 0.18).",
)
@options.also_install_option
@options.replace_torch_option
@options.jobs_option("Try this many releases at once (default: one per core).")
@options.limit_option("--time-limit", "How long the model or the adapter may take to load.")
@options.format_option
@click.pass_context
def command(  # noqa: PLR0913  (arguments and options)
    context: click.Context,
    /,
    adapter: Path,
    *,
    base: str | None,
    inputs: str | None,
    shape: list[int] | None,
    replace_torch: bool,
    output: str,
    **settings: Any,
) -> None:
    """Show which releases load the saved ADAPTER, and whether they compute the same.

    ADAPTER is a folder that peft's save_pretrained wrote. Each release loads it in an environment
    over this one, on the same base model. Its output is compared with that of the release that
    saved the adapter. The exit code is 1 if a release refuses it or computes something else, 3 if a
    release could not be tried.
    """
    saved = read_adapter(adapter)
    if not base:
        raise click.UsageError(
            "name the model that the adapter is for: --base pkg.mod:callable, or --base resnet18"
        )
    if inputs is not None and shape is not None:
        problem = "--inputs and --shape exclude each other: both say what the model gets"
        raise click.UsageError(problem)
    project = current_project().settings
    folder, pip = str(project.folder.absolute()), replace(project.pip, replace_torch=replace_torch)
    model = BaseModel(name=base, inputs=inputs, shape=shape, folder=folder)
    if not model.is_own:
        registry.get("architecture", base)
    chosen = CompatSettings(base=model, pip=pip, **settings)
    with ending_signals_interrupt():
        found = compat(saved, chosen, progress=options.print_sentence)
    document = compat_report.compat_document(found)
    options.print_result(output, compat_report.encode_compat(found), document)
    context.exit(found.exit_code)
