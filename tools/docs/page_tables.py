"""Tables that a tool writes into a page, between `<!-- TOOL:NAME -->` and `<!-- /TOOL:NAME -->`."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["check_or_write", "option_parser", "print_tables", "put", "table"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1) -> str:
    """Return a Markdown table whose first columns are names, the others numbers."""
    rules = ["---"] * names + ["---:"] * (len(header) - names)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rules, *rows))


def put(page: str, tool: str, name: str, content: str) -> str:
    """Return the page with a table in its place.

    Raises `SystemExit` with the comments to add if the page has no such place.
    """
    start, end = f"<!-- {tool}:{name} -->", f"<!-- /{tool}:{name} -->"
    place = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if len(place.findall(page)) != 1:
        sys.exit(f"the page must have one place for the table {name!r}: add {start} and {end}")
    return place.sub(lambda _: f"{start}\n\n{content}\n\n{end}", page)


def option_parser(description: str, names: Iterable[str]) -> argparse.ArgumentParser:
    """Return the options that every such tool has."""
    parser = argparse.ArgumentParser(description=description)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="put the tables into the page")
    mode.add_argument("--check", action="store_true", help="exit 1 if the page differs")
    parser.add_argument("--only", nargs="+", choices=list(names), metavar="TABLE", help="which")
    return parser


def print_tables(tables: Mapping[str, str]) -> int:
    """Print each table with its name; return the exit code."""
    for name, content in tables.items():
        print(f"## {name}\n\n{content}\n")
    return 0


def check_or_write(path: Path, new: str, *, writes: bool) -> int:
    """Write the new page, or print how it differs from the old one; return the exit code."""
    old = path.read_text()
    if writes:
        path.write_text(new)
        return 0
    difference = difflib.unified_diff(
        old.splitlines(), new.splitlines(), str(path), "made now", lineterm=""
    )
    print("\n".join(difference) or f"{path} is up to date")
    return int(old != new)
