"""The command `peft-regress cost`."""

from __future__ import annotations

import warnings
from typing import Any

import click

from peft_regress import registry
from peft_regress.cases import Adaptation
from peft_regress.catalogue.matrix import check_rank
from peft_regress.cli.options import examples, format_option, print_json
from peft_regress.report.cost import cost_document, encode_cost
from peft_regress.report.terminal import echo, show


@click.command(
    "cost", epilog=examples("peft-regress cost --architecture resnet18 --method lora --rank 4")
)
@click.option("--architecture", required=True, help="A registered architecture: resnet18, ...")
@click.option("--method", required=True, help="A registered method: lora, dora, galore, full, ...")
@click.option("--rank", type=click.IntRange(1, 65536), help="The rank, if the method has one.")
@click.option(
    "--batch",
    type=click.IntRange(1, 65536),
    default=1,
    show_default=True,
    help="Images per step.",
)
@click.option(
    "--resolution",
    type=click.IntRange(1, 16384),
    default=224,
    show_default=True,
    help="Height and width of an image, in pixels.",
)
@click.option(
    "--classes",
    type=click.IntRange(1, 1000000),
    default=10,
    show_default=True,
    help="Outputs of the last layer.",
)
@click.option(
    "--loss",
    type=click.Choice(["sum", "cross-entropy"]),
    default="cross-entropy",
    show_default=True,
    help="The loss; `sum` adds up the logits.",
)
@click.option(
    "--bn", type=click.Choice(["train", "eval"]), help="BatchNorm mode (default: the method's)."
)
@click.option("--freeze-head", is_flag=True, help="Leave the last layer untrained.")
@format_option
def command(architecture: str, method: str, rank: int | None, output: str, **settings: Any) -> None:
    """Show what one training step costs, without data or a trained source model."""
    registry.get("architecture", architecture)
    check_rank(method, rank)

    from peft_regress.measure.step_profile import CostSettings, checked_cost, cost_metrics  # torch

    adaptation = Adaptation(method=method, architecture=architecture, rank=rank)
    chosen = CostSettings(**settings)
    # Printed below as plain lines, without the path of the library that warns.
    with warnings.catch_warnings(record=True) as caught:
        metrics = cost_metrics(checked_cost(adaptation, chosen))
    for text in dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught):
        echo(f"warning: {text}", err=True)
    if output == "json":
        print_json(encode_cost(adaptation, chosen, metrics))
    else:
        show(cost_document(adaptation, chosen, metrics), output)
