"""The command line of the tools that write a file of docs/, or check that it is up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def write_or_check(file: Path, text: str, arguments: Sequence[str] | None = None) -> None:
    """Write a file, or end with 1 if it is out of date."""
    parser = argparse.ArgumentParser()
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--write", action="store_true")
    chosen.add_argument("--check", action="store_true")
    typed = parser.parse_args(arguments)
    if typed.write:
        file.write_text(text, encoding="utf-8")
    elif not file.is_file() or file.read_text(encoding="utf-8") != text:
        tool = Path(sys.argv[0]).name
        sys.exit(f"{file.name} is out of date: run `python tools/docs/{tool} --write`")
