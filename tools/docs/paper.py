"""Write the tables of docs/paper.md from measurements, or check them.

    python tools/docs/paper.py                 print every table
    python tools/docs/paper.py --write         put them into docs/paper.md
    python tools/docs/paper.py --check         exit 1 if the page differs from what is measured
    python tools/docs/paper.py --only flops    one table; may name several

The text of the page is written by hand. A table is between the comments `<!-- paper:NAME -->` and
`<!-- /paper:NAME -->`. Below a line `$ peft-regress cost ...` the page shows some lines of its
output; `commands` renews them. `pictures.py` draws the pictures of the page.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from click.testing import CliRunner
from page_tables import check_or_write, option_parser, print_tables, put
from paper_tables import TABLES

from peft_regress.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "paper.md"
COMMANDS: Final = "commands"
_COMMAND: Final = re.compile(r"^\$ peft-regress (cost .+)\n((?:  \S.+\n)*)", re.MULTILINE)


def renew_commands(page: str) -> str:
    """Return the page with its lines of output renewed.

    Raises `SystemExit` if a command fails or no longer prints a metric that is shown.
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
    parser = option_parser(__doc__.partition("\n")[0], [*TABLES, COMMANDS])
    chosen = parser.parse_args(arguments)
    tables = {name: make() for name, make in TABLES.items() if name in (chosen.only or TABLES)}
    if not (chosen.write or chosen.check):
        return print_tables(tables)
    page = PAGE.read_text()
    for name, table in tables.items():
        page = put(page, "paper", name, table)
    if COMMANDS in (chosen.only or [COMMANDS]):
        page = renew_commands(page)
    return check_or_write(PAGE, page, writes=chosen.write)


if __name__ == "__main__":
    sys.exit(main())
