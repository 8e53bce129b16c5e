"""Read what a run left, and write what may be published of it: texts, and files of the storage.

    python tools/ci/prepare.py comment verdict drafts
    python tools/ci/prepare.py issue results drafts
    python tools/ci/prepare.py baseline results drafts

A candidate's or a fork's code may have written the files of a run. So this runs in a job whose
token can write nothing; `publish.py` runs in another job and takes only drafts. `issue` and
`baseline` take the folder that the gate's action keeps (requirements.txt, exit-code, findings.md,
run.json, run.adapters), `comment` the folder with comment.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prepare_issue import prepare_issue
from publish_drafts import write_draft
from publish_results import LONGEST_BODY, PublishError, fit, read_results, read_text
from publish_text import defused

MARKER = "<!-- peft-regress -->"
"""The first line of a verdict, as `peft_regress.report.verdict.markdown` writes it."""


def main(arguments: list[str] | None = None) -> int:
    """Prepare a draft; return 0, also if there is nothing to publish, or 2 if that failed."""
    chosen = argument_parser().parse_args(arguments)
    try:
        if chosen.command == "comment":
            print(prepare_comment(chosen.results, chosen.drafts))
        elif chosen.command == "issue":
            print(prepare_issue(read_results(chosen.results), chosen.drafts))
        else:
            # It needs packages, and a job that prepares only texts installs none.
            from prepare_baseline import prepare_baseline

            results = read_results(chosen.results)
            print(prepare_baseline(results, chosen.drafts, baselines=chosen.baselines))
    except PublishError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    subcommands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("comment", "the comment on a pull request"),
        ("issue", "the issue on a regression"),
        ("baseline", "the run of a release as the new baseline"),
    ):
        subcommand = subcommands.add_parser(name, help=f"prepare {what}")
        subcommand.add_argument("results", type=Path, help="the folder with the run's results")
        subcommand.add_argument("drafts", type=Path, help="the folder to write to")
    subcommand.add_argument(
        "--baselines", type=Path, default=Path("baselines"), help="the baseline storage"
    )
    return parser


def prepare_comment(results: Path, drafts: Path) -> str:
    """Write the draft of a comment: the verdict as text in which nothing is live."""
    path = results / "comment.md"
    remedy = "Name the folder of the artifact `verdict`."
    text = read_text(path, remedy=remedy) if path.exists() or path.is_symlink() else ""
    text = defused(text.strip().removeprefix(MARKER).strip())
    write_draft(drafts, "comment", {"text": fit(text, longest=LONGEST_BODY - 1000)})
    return f"prepared the comment in {drafts}"


if __name__ == "__main__":
    sys.exit(main())
