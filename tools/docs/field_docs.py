"""The fields of a class with the string literal below each, which documents it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def documented_fields(kind: type) -> Iterator[tuple[ast.AnnAssign, str]]:
    """Yield each field's statement and its text on one line, empty if there is none."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)  # noqa: S101  (the source of a class)
    following: list[ast.stmt | None] = [*body.body[1:], None]
    for statement, below in zip(body.body, following, strict=True):
        if not isinstance(statement, ast.AnnAssign):
            continue
        text = ""
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            text = one_line(str(below.value.value))
        yield statement, text


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())
