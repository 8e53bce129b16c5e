"""What the tools that write into docs/ share: whole files, tables in a page, states of cases.

A table stands between `<!-- TOOL:NAME -->` and `<!-- /TOOL:NAME -->`. With `--write` a tool renews,
with `--check` it exits with 1 if something is out of date. Without either a tool of tables prints
them; `--only` names some of them.
"""

import argparse
import difflib
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from peft_regress.baselines.references import read_references
from peft_regress.cases import Case
from peft_regress.runs.schema import Record

ROOT: Final = Path(__file__).resolve().parents[2]


def _option_parser(path: Path) -> argparse.ArgumentParser:
    """Return the options that every such tool has."""
    parser = argparse.ArgumentParser(description=f"Write {path.name}, or check it")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="renew docs/")
    mode.add_argument("--check", action="store_true", help="exit 1 if docs/ is out of date")
    return parser


def _renew_or_compare(path: Path, new: str, *, writes: bool) -> int:
    """Write the new text, or print how it differs from the old one; return the exit code."""
    if writes:
        path.write_text(new, encoding="utf-8")
        return 0
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    difference = difflib.unified_diff(
        old.splitlines(), new.splitlines(), str(path), "made now", lineterm=""
    )
    print("\n".join(difference) or f"{path} is up to date")
    if old != new:
        print(f"{path.name} is out of date: run `python {sys.argv[0]} --write`", file=sys.stderr)
    return int(old != new)


def write_or_check(path: Path, text: str, arguments: Sequence[str] | None = None) -> int:
    """Write a whole file, or check it; return the exit code."""
    chosen = _option_parser(path).parse_args(arguments)
    return _renew_or_compare(path, text, writes=chosen.write)


# --- Tables ---------------------------------------------------------------------------------------


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


def main_of_tables(
    path: Path,
    tool: str,
    tables: Mapping[str, Callable[[], str]],
    arguments: Sequence[str] | None = None,
) -> int:
    """Print, write or check the chosen tables of a page; return the exit code."""
    parser = _option_parser(path)
    parser.add_argument("--only", nargs="+", choices=list(tables), metavar="TABLE", help="which")
    chosen = parser.parse_args(arguments)
    made = {name: make() for name, make in tables.items() if name in (chosen.only or tables)}
    if not (chosen.write or chosen.check):
        for name, content in made.items():
            print(f"## {name}\n\n{content}\n")
        return 0
    page = path.read_text(encoding="utf-8")
    for name, content in made.items():
        page = put(page, tool, name, content)
    return _renew_or_compare(path, page, writes=chosen.write)


# --- States of cases ------------------------------------------------------------------------------


def recorded() -> dict[str, Record]:
    """Return the newest accepted records."""
    found = read_references(ROOT / "baselines")
    return {name: observation.record for name, observation in found.items()}


def require(cases: Sequence[Case], records: Mapping[str, Record], *, matrix: str) -> None:
    """End with the command that makes the records if one is missing."""
    absent = [case.id for case in cases if case.id not in records]
    if absent:
        sys.exit(
            f"{len(absent)} of {len(cases)} cases have no record, such as {absent[0]}. Make them "
            f"with `tox run -e bench-{matrix}`, and accept the run."
        )


def state_table(
    cases: Sequence[Case], records: Mapping[str, Record], name_of: Callable[[Case], str]
) -> str:
    """Return the state of every method on every architecture; equal states share a row."""
    architectures = list(dict.fromkeys(case.architecture for case in cases))
    messages: dict[str, int] = {}
    cells: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for case in sorted(cases, key=lambda case: architectures.index(case.architecture)):
        cells[name_of(case)][case.architecture] = state_of(records[case.id], messages)
    together: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for method, found in cells.items():
        # A method may be for some architectures only.
        together[tuple(found.get(name, "no case") for name in architectures)].append(f"`{method}`")
    rows = [[", ".join(names), *found] for found, names in together.items()]
    rows.sort(key=lambda row: (row[1:] != ["ok"] * len(architectures), row[0]))
    return table(["method", *architectures], rows, names=1 + len(architectures)) + notes(messages)


def notes(messages: Mapping[str, int]) -> str:
    """Return the messages to which states refer, by number."""
    return "\n\n" + "\n".join(f"{number}. {message}" for message, number in messages.items())


def state_of(record: Record, messages: dict[str, int]) -> str:
    """Return the state of a record; the message of an error gets a number."""
    if record.error is not None:
        message = f"`{record.error.type}: {record.error.message}`"
        number = messages.setdefault(message, len(messages) + 1)
        return f"{record.status} ({number})"
    false = [f"`{name}`" for name, value in record.invariants.items() if value is False]
    return f"false: {', '.join(false)}" if false else "ok"
