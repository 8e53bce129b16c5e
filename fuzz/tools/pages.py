"""What the tools here share: their options, and how they renew a page of fuzz/docs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).resolve().parents[2]
EVIDENCE: Final = ROOT / "fuzz" / "docs" / "fuzz-evidence.md"


def mode_options(description: str | None) -> tuple[argparse.ArgumentParser, Any]:
    """Return a parser with `--write` and `--check`, and the group of what excludes these."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="write the result into the page")
    mode.add_argument("--check", action="store_true", help="exit 1 if the page differs")
    return parser, mode


def search_options(parser: argparse.ArgumentParser, results: Path) -> None:
    """Add the options of a tool that searches, and keeps its results in a file."""
    parser.add_argument("--jobs", type=int, default=2, help="processes that search at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=results, metavar="FILE")


def renew(page: Path, tool: str, tables: Mapping[str, str], *, writes: bool) -> int:
    """Write tables into a page, or compare it; return the exit code."""
    sys.path.append(str(ROOT / "tools" / "docs"))
    from page_tables import check_or_write, put

    text = page.read_text(encoding="utf-8")
    for name, content in tables.items():
        text = put(text, tool, name, content)
    result: int = check_or_write(page, text, writes=writes)
    return result


def write_results(path: Path, value: object) -> None:
    """Write results as indented JSON."""
    from peft_regress.files import make_folder, write_atomic

    make_folder(path.parent)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")
