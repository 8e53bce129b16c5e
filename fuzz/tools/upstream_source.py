"""Read the convolution rows of peft's own test cases, and the networks that they are about.

Both are read from a source distribution at run time: nothing of it is kept here. The file of tests
is parsed and not imported, since its imports need a dozen more packages: rows are taken as
literals, and only the classes of the networks are executed.
"""

from __future__ import annotations

import ast
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peft_regress.errors import AbsentError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["Row", "UpstreamCases", "cases_in", "read_tests"]

TESTS: Final = "tests/test_custom_models.py"
_ROWS: Final = "TEST_CASES"
_BUILDER: Final = "from_pretrained"
_CONVOLUTIONS: Final = frozenset({"Conv1d", "Conv2d", "Conv3d"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of upstream's test cases.

    Attributes:
        name: The label of the row; upstream uses some of them twice.
        network: The id of the network.
        config: The name of the class of its configuration.
        settings: The arguments of that class.

    """

    name: str
    network: str
    config: str
    settings: dict[str, Any]


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
