"""The command `peft-regress explain`."""

from pathlib import Path

import click

from peft_regress import report
from peft_regress.baselines.named_runs import named_case
from peft_regress.cli import options
from peft_regress.gate.attribution import changed_costs


@options.command(
    "explain",
    "peft-regress explain 0004 0007 shift/dora-r1/resnet18",
    "peft-regress explain 0016 runs/bench.json shift/lora-r4/resnet18 --top 3",
)
@click.argument("old")
@click.argument("new")
@click.argument("case")
@options.counted_option(
    "--top",
    "N",
    10,
    "Print this many layers per metric and the rest as one line; JSON has all layers.",
    most=None,
)
@options.format_option
@options.baselines_option
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
    options.print_result(output, report.encode_explanation(before, after, changes), document)
