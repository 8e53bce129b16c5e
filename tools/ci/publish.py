"""Report a run to GitHub: as an issue, a pull request with a baseline, or a comment on one.

    python tools/ci/publish.py issue results --dry-run
    python tools/ci/publish.py baseline results --dry-run
    python tools/ci/publish.py comment verdict --run 123456 --dry-run

`issue` and `baseline` take the folder that the gate's action keeps (requirements.txt, exit-code,
findings.md, run.json), `comment` the folder with comment.md. These files are only text here:
nothing of the candidate is run, imported or installed. `--dry-run` prints each command and runs
none.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from publish_comment import BOT, post_comment
from publish_issue import report_issue
from publish_results import Commands, PublishError, read_results


def main(arguments: list[str] | None = None) -> int:
    """Publish; return 0, also if there is nothing to publish, or 2 if publishing failed."""
    chosen = argument_parser().parse_args(arguments)
    commands = Commands(dry_run=chosen.dry_run)
    try:
        if chosen.command == "comment":
            author, run = chosen.author, chosen.run
            print(post_comment(chosen.results, commands, run_id=run, author=author))
            return 0
        results = read_results(chosen.results)
        if chosen.command == "issue":
            print(report_issue(results, commands))
        else:
            # It needs packages, and the job that writes issues installs none.
            from publish_baseline import offer_baseline

            print(offer_baseline(results, commands, baselines=chosen.baselines))
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
        subcommand.add_argument("results", type=Path, help="the folder with the run's results")
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
