"""The command `peft-regress explain`."""

from __future__ import annotations

from pathlib import Path

import click

from peft_regress import report
from peft_regress.baselines.named_runs import named_case
from peft_regress.cli.options import baselines_option, examples, format_option, print_result
from peft_regress.gate.attribution import changed_costs


@click.command(
    "explain",
    epilog=examples(
        "peft-regress explain 0004 0007 shift/dora-r1/resnet18",
        "peft-regress explain 0016 runs/bench.json shift/lora-r4/resnet18 --top 3",
    ),
)
@click.argument("old")
@click.argument("new")
@click.argument("case")
@click.option(
    "--top",
    type=click.IntRange(1),
    metavar="N",
    default=10,
    show_default=True,
    help="Print this many layers per metric and the rest as one line; JSON has all layers.",
)
@format_option
@baselines_option
def command(  # noqa: PLR0913  (arguments and options)
    old: str, new: str, case: str, *, top: int, output: str, baselines: Path
) -> None:
    """Show which modules and operators changed the costs of CASE.

    OLD and NEW are run files, folders of shards, baseline storages, or entries of the storage. CASE
    is an id.
    """
    before, after = (named_case(baselines, name, case) for name in (old, new))
    changes = changed_costs(before.record, after.record)
    document = report.explanation(before, after, changes, top=top)
    print_result(output, report.encode_explanation(before, after, changes), document)
