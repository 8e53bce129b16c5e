"""Write the tables of docs/paper.md from measurements, or check them.

    python tools/docs/paper.py                 print every table
    python tools/docs/paper.py --write         put them into docs/paper.md
    python tools/docs/paper.py --check         exit 1 where the page differs from what is measured
    python tools/docs/paper.py --only flops    one table; may name several

The page's text is written by hand. A table stands between the comments `<!-- paper:NAME -->` and
`<!-- /paper:NAME -->`. Below a line `$ peft-regress cost ...` stand those lines of its output that
the page chooses to show; they are renewed as `commands`. `pictures.py` draws the page's pictures.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from click.testing import CliRunner
from paper_tables import TABLES

from peft_regress.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "paper.md"
COMMANDS: Final = "commands"
_COMMAND: Final = re.compile(r"^\$ peft-regress (cost .+)\n((?:  \S.+\n)*)", re.MULTILINE)


def put(page: str, name: str, table: str) -> str:
    """Return the page with a table in its place.

    Raises `SystemExit` with the markers to add where the page has no such place.
    """
    start, end = f"<!-- paper:{name} -->", f"<!-- /paper:{name} -->"
    place = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if len(place.findall(page)) != 1:
        sys.exit(f"{PAGE} must have one place for the table {name!r}: add {start} and {end}")
    return place.sub(lambda _: f"{start}\n\n{table}\n\n{end}", page)


def renew_commands(page: str) -> str:
    """Return the page with the lines of output that it shows as they are printed now.

    Raises `SystemExit` where a command fails or no longer prints a metric that is shown.
    """
    return _COMMAND.sub(_renewed, page)


def _renewed(shown: re.Match[str]) -> str:
    command = f"peft-regress {shown[1]}"
    run = CliRunner().invoke(cli, shlex.split(shown[1]))
    if run.exit_code != 0:
        sys.exit(f"{PAGE} shows `{command}`, which fails: {run.output or run.exception}")
    printed = {line.split()[0]: line for line in run.output.splitlines()}
    names = [line.split()[0] for line in shown[2].splitlines()]
    if missing := [name for name in names if name not in printed]:
        sys.exit(f"{PAGE} shows {missing} of `{command}`, which prints no such line")
    return "\n".join([f"$ {command}", *(printed[name] for name in names)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, write or check the chosen tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="put the tables into docs/paper.md")
    mode.add_argument("--check", action="store_true", help="exit 1 where the page differs")
    parser.add_argument(
        "--only", nargs="+", choices=[*TABLES, COMMANDS], metavar="TABLE", help="which"
    )
    chosen = parser.parse_args(arguments)
    tables = {name: make() for name, make in TABLES.items() if name in (chosen.only or TABLES)}
    if not (chosen.write or chosen.check):
        for name, table in tables.items():
            print(f"## {name}\n\n{table}\n")
        return 0
    before = page = PAGE.read_text()
    for name, table in tables.items():
        page = put(page, name, table)
    if COMMANDS in (chosen.only or [COMMANDS]):
        page = renew_commands(page)
    if chosen.write:
        PAGE.write_text(page)
        return 0
    difference = difflib.unified_diff(
        before.splitlines(), page.splitlines(), str(PAGE), "measured now", lineterm=""
    )
    print("\n".join(difference) or f"{PAGE} is what is measured")
    return int(before != page)


if __name__ == "__main__":
    sys.exit(main())
