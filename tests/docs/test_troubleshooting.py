"""docs/troubleshooting.md quotes messages that the package has."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
MESSAGES = re.findall(r"^> `(.*)`$", PAGE, re.MULTILINE)
GAP = "\0"
"""What stands for a value in an f-string."""


@cache
def texts():
    """Return every string of the package but the docstrings, implicit concatenations joined."""
    found = []
    for path in (ROOT / "peft_regress").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        documentation = {node.value for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if node in documentation:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [one.value if isinstance(one, ast.Constant) else GAP for one in node.values]
                found.append("".join(map(str, parts)))
    return "\n".join(found)


def test_the_page_quotes_messages():
    assert len(MESSAGES) > 20
    assert len(MESSAGES) == len(set(MESSAGES)) == PAGE.count("\n>")


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_in_the_package(message):
    anything = rf"[^\n]*{GAP}[^\n]*"
    assert re.search(anything.join(map(re.escape, message.split("..."))), texts()), message
