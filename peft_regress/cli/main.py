"""The command `peft-regress`: its subcommands, and what they are for."""

from typing import Final

import click

from peft_regress.cli.group import CONTEXT, LazyGroup, end_with

SECTIONS: Final = {
    "Measure": {
        "init": "Write a first suite that gates a fine-tuning of your own.",
        "list": "List the cases of a matrix.",
        "measure": "Measure cases and write their run, without pytest and without a verdict.",
        "watch": "Run a training script, unchanged, and show what its first steps do.",
        "choose": "Choose a method and its rank for a device, and say why.",
        "cost": "Show what one training step costs, without training and without a source model.",
    },
    "Judge": {
        "compare": "Judge run NEW by OLD.",
        "explain": "Show which modules and operators changed the costs of CASE.",
        "time": "Test whether a training step is slower in CANDIDATE than in BASE.",
    },
    "Upgrade": {
        "upgrade": "Show what an upgrade to REQUIREMENT, such as peft==0.14.0, would change.",
        "bisect": "Find the release of PACKAGE that changes a case, with as few tries as possible.",
        "compat": "Show which releases load the saved ADAPTER, and whether they compute the same.",
    },
    "Look": {
        "report": "Show what every case costs and how accurate it is.",
        "history": "Show what moved beyond its bound over the stored entries.",
    },
    "Store": {
        "accept": "Store RUN in the baseline storage, so that it judges later runs.",
        "sources": "Train the source models that are missing, or check the stored ones.",
    },
}
COMMANDS: Final = {name: text for names in SECTIONS.values() for name, text in names.items()}
"""Every command. The module `peft_regress.cli.<name>` holds it as `command`."""


@click.group(cls=LazyGroup, sections=SECTIONS, package="peft_regress.cli", context_settings=CONTEXT)
@click.version_option(package_name="peft-regress")
def cli() -> None:
    """Gate the cost and the function of parameter-efficient fine-tuning.

    `pytest benchmarks --regress-save runs/bench.json` or `tox -e bench` measures all cases, and
    judges them. These commands do the rest. Each has examples in its own `--help`.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, and exit."""
    end_with(cli, "peft-regress", arguments)
