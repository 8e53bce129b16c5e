"""Report a run to GitHub: as an issue, a pull request with a baseline, or a comment on one.

    python tools/ci/publish.py issue drafts --dry-run
    python tools/ci/publish.py baseline drafts --dry-run
    python tools/ci/publish.py comment drafts --run 123456 --dry-run

It runs with a token that can write, and so takes nothing from a run, only the drafts that
`prepare.py` made of it in another job. It needs no package. `--dry-run` prints each command and
runs none.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from publish_baseline import offer_baseline
from publish_comment import BOT, post_comment
from publish_issue import report_issue
from publish_results import Commands, PublishError


def main(arguments: list[str] | None = None) -> int:
    """Publish; return 0, also if there is nothing to publish, or 2 if publishing failed."""
    chosen = argument_parser().parse_args(arguments)
    commands = Commands(dry_run=chosen.dry_run)
    try:
        if chosen.command == "comment":
            author, run = chosen.author, chosen.run
            print(post_comment(chosen.drafts, commands, run_id=run, author=author))
        elif chosen.command == "issue":
            print(report_issue(chosen.drafts, commands))
        else:
            print(offer_baseline(chosen.drafts, commands, baselines=chosen.baselines))
    except PublishError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    subcommands = parser.add_subparsers(dest="command", required=True)
    issue = subcommands.add_parser("issue", help="open or update the issue on a regression")
    baseline = subcommands.add_parser(
        "baseline", help="offer the run of a release as the new baseline"
    )
    comment = subcommands.add_parser("comment", help="comment on the pull request of a run")
    for subcommand in (issue, baseline, comment):
        subcommand.add_argument("drafts", type=Path, help="the folder with the drafts")
        subcommand.add_argument(
            "--dry-run", action="store_true", help="print the commands, run none"
        )
    baseline.add_argument(
        "--baselines", type=Path, default=Path("baselines"), help="the baseline storage"
    )
    comment.add_argument("--run", type=int, required=True, help="the id of the run of bench.yml")
    comment.add_argument("--author", default=BOT, help="the comment's author: the logged-in user")
    return parser


if __name__ == "__main__":
    sys.exit(main())
