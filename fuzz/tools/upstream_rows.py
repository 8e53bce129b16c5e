"""Take the convolution rows of peft's own tests through this project's ledger and invariants.

    python fuzz/tools/upstream_rows.py SOURCE                  every row, and what the claims say
    python fuzz/tools/upstream_rows.py SOURCE --only 'Conv2d*' the rows whose label matches a glob
    python fuzz/tools/upstream_rows.py SOURCE --write          write docs/upstream-rows.md
    python fuzz/tools/upstream_rows.py SOURCE --check          exit 1 if the page has other tables

SOURCE is the source distribution of the installed release (`pip download --no-deps --no-binary peft
peft==0.21.2`), or a checkout. Upstream's rows are an oracle from outside: nobody here chose them.
The file of tests is parsed and not imported, since its imports need a dozen more packages: rows are
taken as literals, and only the classes of the networks are executed. Each row is measured like a
fine-tuning of a user: its costs split by module, and the invariants. Exit code 1 if a claim does
not hold and `upstream_claims.py` does not say why, or if a row could not be read.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pages import EVIDENCE, mode_options, renew
from upstream_claims import Result, Row, measured

from peft_regress.errors import AbsentError, InputError, PeftRegressError
from peft_regress.text import count_of

if TYPE_CHECKING:
    from torch import nn

PAGE: Final = EVIDENCE.with_name("upstream-rows.md")
TABLES = ("count", "broken")
TESTS: Final = "tests/test_custom_models.py"
_ROWS: Final = "TEST_CASES"
_BUILDER: Final = "from_pretrained"
_CONVOLUTIONS: Final = frozenset({"Conv1d", "Conv2d", "Conv3d"})


# --- Reading --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class UpstreamCases:
    """The rows on networks with a convolution, and these networks.

    Attributes:
        rows: In upstream's order.
        networks: The classes by id.
        unread: Labels of rows on such networks that are no literals.

    """

    rows: tuple[Row, ...]
    networks: dict[str, type[nn.Module]]
    unread: tuple[str, ...] = ()


def read_tests(source: Path) -> str:
    """Return the file of tests in a source distribution or in a checkout.

    Raises `AbsentError` if it is not there.
    """
    msg = f"{source} has no {TESTS}: give a source distribution of peft (.tar.gz) or a checkout"
    try:
        if source.is_dir():
            return (source / TESTS).read_text(encoding="utf-8")
        with tarfile.open(source) as archive:
            for member in archive:
                if member.isfile() and member.name.partition("/")[2] == TESTS:
                    content = archive.extractfile(member)
                    assert content is not None  # noqa: S101  (of a file)
                    return content.read().decode("utf-8")
    except (OSError, tarfile.TarError) as error:
        raise AbsentError(f"{msg} ({error})") from error
    raise AbsentError(msg)


def cases_in(text: str) -> UpstreamCases:
    """Return the convolution rows in upstream's file of tests.

    Raises `InputError` if the file is not Python, or has no rows of the known form.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{TESTS} cannot be parsed: {error}") from error
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    chosen = {
        network: classes[name]
        for network, name in _networks(tree)
        if name in classes and _has_convolution(classes[name])
    }
    rows: list[Row] = []
    unread: list[str] = []
    for node in _row_nodes(tree):
        found = _row(node)
        if isinstance(found, str):
            unread.append(found)
        elif found is not None and found.network in chosen:
            rows.append(found)
    if not rows:
        raise InputError(
            f"{TESTS} has no rows on convolutions in {_ROWS}: its form is another one by now"
        )
    networks = _built(list(chosen.values()))
    return UpstreamCases(
        rows=tuple(rows),
        networks={network: networks[node.name] for network, node in chosen.items()},
        unread=tuple(unread),
    )


def _row_nodes(tree: ast.Module) -> list[ast.expr]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Tuple):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if names == [_ROWS]:
                return node.value.elts
    return []


def _row(node: ast.expr) -> Row | str | None:
    """Return a row; its label, if a convolution's row is no literal; None for other rows."""
    match node:
        case ast.Tuple(elts=[ast.Constant(str(name)), ast.Constant(str(network)), config, given]):
            try:
                settings = ast.literal_eval(given)
            except ValueError:
                return name if network.startswith("Conv") else None
            if isinstance(config, ast.Name) and isinstance(settings, dict):
                return Row(name=name, network=network, config=config.id, settings=settings)
    return None


def _networks(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield id and class of each network: `if model_id == "Conv2d": return ModelConv2D()...`."""
    for builder in ast.walk(tree):
        if not (isinstance(builder, ast.FunctionDef) and builder.name == _BUILDER):
            continue
        for node in builder.body:
            match node:
                case ast.If(test=ast.Compare(comparators=[ast.Constant(str(network))])):
                    called = [
                        call.func.id
                        for call in ast.walk(node)
                        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
                    ]
                    if called:
                        yield network, called[-1]


def _has_convolution(network: ast.ClassDef) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr in _CONVOLUTIONS for node in ast.walk(network)
    )


def _built(classes: list[ast.ClassDef]) -> dict[str, type[nn.Module]]:
    """Execute the classes of networks, and nothing else of the file."""
    import torch
    from torch import nn

    names: dict[str, Any] = {"torch": torch, "nn": nn, "__name__": "upstream_networks"}
    module = ast.Module(body=list(classes), type_ignores=[])
    exec(compile(module, TESTS, "exec"), names)  # noqa: S102  (the library's own source, as installed)
    return names


# --- Showing --------------------------------------------------------------------------------------


def line(result: Result) -> str:
    """Return one line for the terminal."""
    cost = "" if result.ratio is None else f", {result.ratio:.2f} times the forward FLOPs"
    found = [
        f"\n  {what}: {said}\n    {reason or 'NOT EXPLAINED'}"
        for (what, said), reason in zip(result.broken.items(), result.reasons.values(), strict=True)
    ]
    return f"{result.row.name} ({result.row.network}): {_claims(result)}{cost}{''.join(found)}"


def _claims(result: Result) -> str:
    held, broken = len(result.held), len(result.broken)
    return f"{held} of {count_of(held + broken, 'claim')} hold"


def summary(results: Sequence[Result], *, version: str) -> str:
    """Return how many claims were checked, and how many hold."""
    held = sum(len(one.held) for one in results)
    broken = sum(len(one.broken) for one in results)
    unexplained = sum(reason is None for one in results for reason in one.reasons.values())
    sound = sum(not one.broken for one in results)
    return (
        f"peft {version}: {count_of(len(results), 'row')} on "
        f"{count_of(len({one.row.network for one in results}), 'network')}, "
        f"{held + broken:,} claims, of which {held:,} hold. All hold for {count_of(sound, 'row')}. "
        f"{unexplained or 'None'} of the other {broken} is without an explanation."
    )


def tables(results: Sequence[Result], *, version: str) -> dict[str, str]:
    """Return what stands between the markers of the page, by name."""
    return {
        "count": summary(results, version=version),
        "broken": _broken(results),
    }


def _broken(results: Sequence[Result]) -> str:
    causes: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for one in results:
        for what, reason in one.reasons.items():
            causes[what, reason or "**not explained**"].append(one.row)
    lines = ["| claim | does not hold for | why |", "| --- | --- | --- |"]
    for (what, reason), rows in causes.items():
        names = "; ".join(dict.fromkeys(row.name for row in rows))
        shown = f"`{what}`" if "_" in what else what
        lines.append(f"| {shown} | {names} | {reason} |")
    return "\n".join(lines) if causes else "All claims hold."


def tried(cases: UpstreamCases, pattern: str) -> list[Result]:
    """Measure the rows whose label matches a glob; print a line for each.

    Raises `SystemExit` if no row matches.
    """
    chosen = [
        (number, row)
        for number, row in enumerate(cases.rows, start=1)
        if fnmatchcase(row.name, pattern)
    ]
    if not chosen:
        sys.exit(f"no row matches {pattern!r}; the first is {cases.rows[0].name!r}")
    results = []
    for number, row in chosen:
        results.append(measured(row, cases.networks[row.network], number=number))
        print(line(results[-1]), flush=True)
    return results


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser, mode = mode_options(__doc__)
    mode.add_argument("--only", default="*", metavar="GLOB", help="rows by their label")
    parser.add_argument("source", type=Path, help="a source distribution or a checkout of peft")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the chosen rows; return the exit code."""
    chosen = _parsed(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    release = version("peft")
    try:
        cases = cases_in(read_tests(chosen.source))
        results = tried(cases, chosen.only)
        print(summary(results, version=release))
    except PeftRegressError as error:
        sys.exit(f"Error: {error}")
    if cases.unread:
        print(f"not read, since they are no literals: {', '.join(cases.unread)}")
    wrong = bool(cases.unread) or any(None in one.reasons.values() for one in results)
    if chosen.write or chosen.check:
        made = tables(results, version=release)
        return renew(PAGE, "upstream-rows", made, writes=chosen.write) or int(wrong)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
