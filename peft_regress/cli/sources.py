"""The command `peft-regress sources`."""

from pathlib import Path

import click

from peft_regress import registry
from peft_regress.cli import options
from peft_regress.errors import AbsentError
from peft_regress.report.terminal import say


@options.command("sources", "peft-regress sources --check")
@click.option("--check", is_flag=True, help="Train nothing; check the bytes of the stored files.")
@click.option(
    "--architecture",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this architecture, such as resnet18; may be repeated.",
)
@options.baselines_option
def command(names: tuple[str, ...], baselines: Path, *, check: bool) -> None:
    """Train the source models that are missing, or check the stored ones.

    Every case starts from the source model of its architecture.
    """
    usual = [item.name for item in registry.items("architecture") if item.matrices]
    chosen = [registry.get("architecture", name) for name in names or usual]
    from peft_regress.catalogue.sources import check_sources
    from peft_regress.measure.sources import ensure_source  # torch

    if check:
        problems = check_sources(baselines, [architecture.name for architecture in chosen])
        if problems:
            raise AbsentError(*problems)
        say(f"{len(chosen)} sources are the recorded bytes")
        return
    for architecture in chosen:
        trained = ensure_source(baselines, architecture)
        say(f"{architecture.name}: {'trained and stored' if trained else 'stored already'}")
