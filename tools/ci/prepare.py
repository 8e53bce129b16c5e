"""Read what a run left, and write the text that may be published of it.

    python tools/ci/prepare.py comment verdict drafts
    python tools/ci/prepare.py issue results drafts

A candidate's or a fork's code may have written the files of a run. So this runs in a job whose
token can write nothing; `publish.py` runs in another job and takes only drafts: `comment.md`, or
`issue.md`, which is empty if there is nothing to publish. `issue` takes the folder that the gate's
action keeps (with exit-code and findings.md), `comment` the folder with comment.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from untrusted import UntrustedError, defused, defused_outside_code, fit, read_text

MARKER: Final = "<!-- peft-regress -->"
"""The first line of a verdict, as `peft_regress.report` writes it."""


def main(arguments: list[str] | None = None) -> int:
    """Prepare a draft; return 0, also if there is nothing to publish, or 2 if that failed."""
    chosen = argument_parser().parse_args(arguments)
    try:
        draft = comment(chosen.results) if chosen.kind == "comment" else issue(chosen.results)
    except UntrustedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chosen.drafts.mkdir(parents=True, exist_ok=True)
    (chosen.drafts / f"{chosen.kind}.md").write_text(draft, encoding="utf-8")
    print(f"prepared the {chosen.kind}" if draft else f"no {chosen.kind}")
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("comment", "issue"))
    parser.add_argument("results", type=Path, help="the folder with the run's results")
    parser.add_argument("drafts", type=Path, help="the folder to write to")
    return parser


def comment(results: Path) -> str:
    """Return the verdict as text in which nothing is live; empty without one."""
    text = read_text(results / "comment.md").strip().removeprefix(MARKER)
    return fit(defused(text.strip()))


def issue(results: Path) -> str:
    """Return the findings of what regressed; empty if nothing did.

    Raises `UntrustedError` if there is no exit code, or there are no findings.
    """
    code = read_text(results / "exit-code").strip()
    if not code.isdecimal():
        raise UntrustedError(
            f"{results / 'exit-code'}: {code[:40]!r} is not an exit code; gate the candidate again"
        )
    if int(code) != 1:
        return ""
    findings = read_text(results / "findings.md").strip()
    if not findings:
        raise UntrustedError(
            f"{results / 'findings.md'}: is missing or empty, although something regressed"
        )
    return fit(defused_outside_code(findings))


if __name__ == "__main__":
    sys.exit(main())
