"""The command `peft-fuzz accept`."""

from __future__ import annotations

from pathlib import Path

import click

from peft_fuzz.cli.options import corpus_option
from peft_fuzz.search.findings import accept_findings
from peft_regress.cli.options import examples
from peft_regress.report.terminal import say


@click.command("accept", epilog=examples("peft-fuzz accept runs/fuzz --reason 'known upstream'"))
@click.argument("findings", type=click.Path(path_type=Path))
@click.option("--reason", metavar="TEXT", required=True, help="Why it is known, in one line.")
@click.option(
    "--reported", metavar="ISSUE", help="Where it was reported, such as huggingface/peft#3697."
)
@corpus_option
def command(findings: Path, *, reason: str, reported: str | None, corpus: Path) -> None:
    """Put findings into the corpus of known defects.

    FINDINGS is a file that `search` or `replay` wrote, or a folder of them. All of them are
    accepted, or none.
    """
    for path, one in accept_findings(findings, corpus=corpus, reason=reason, reported=reported):
        say(f"{'stored' if one.mended is None else 'marked as mended'}: {path}")
