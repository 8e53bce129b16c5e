"""Write docs/api.md from the docstrings of the public names, or check that it is up to date.

`python tools/docs/api.py --write` or `--check`.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from page_tables import documented_fields, one_line, write_or_check

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = Path(__file__).parents[2] / "docs" / "api.md"
MODULES: Final = ("peft_regress", "peft_regress.cost")

_INTRODUCTION: Final = """\
# API reference

For users who write cases or count costs in Python: the public names of `peft_regress` and
`peft_regress.cost`. [`api.py`](../tools/docs/api.py) writes this page from their docstrings.
[Gate your own model](own-model.md) explains each field of a case.
"""

_EXPLAINED: Final = {
    "Budget": "own-model.md#budget-bound-ownmetric",
    "FineTune": "own-model.md#the-fields-of-a-case",
    "StepCost": "metrics.md#cost-of-one-training-step",
}
"""Where the fields of a class are explained, whose page need not say it again."""


def page() -> str:
    """Return the text of the page."""
    parts = [_INTRODUCTION]
    for name in MODULES:
        module = importlib.import_module(name)
        parts.append(f"## {name}\n")
        parts += [_entry(one, getattr(module, one)) for one in module.__all__]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def _entry(name: str, value: Any) -> str:
    """Return the section of one name."""
    title = f"### {name}\n"
    if inspect.ismodule(value):
        return f"{title}\n{_text(inspect.getdoc(value) or '')}\n"
    if inspect.isclass(value):
        return f"{title}\n{_text(inspect.getdoc(value) or '')}\n{_members(value)}"
    if inspect.isfunction(value):
        shown = " ".join(f"{name}{_signature(value)}".split())
        return f"{title}\n`{shown}`\n\n{_text(inspect.getdoc(value) or '')}\n"
    return f"{title}\n`{str(value).replace('typing.', '')}`\n"


def _signature(function: Any) -> str:
    """Return the parameters as the source writes them; defaults that are functions by name."""
    signature = inspect.signature(function)
    plain = [
        parameter.replace(default=_ByName(parameter.default.__name__))
        if inspect.isfunction(parameter.default)
        else parameter
        for parameter in signature.parameters.values()
    ]
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in plain]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


@dataclasses.dataclass(frozen=True)
class _ByName:
    name: str

    def __repr__(self) -> str:
        return self.name


def _members(kind: type) -> str:
    """Return a list of the fields and properties, each with its own documentation."""
    page = _EXPLAINED.get(kind.__name__)
    lines = [f"- `{field}`{'' if page else text}" for field, text in _fields(kind)]
    if page:
        lines.insert(0, f"[What each is]({page}):\n")
    lines += [
        f"- `{name}`: {one_line(inspect.getdoc(value) or '')}"
        for name, value in vars(kind).items()
        if isinstance(value, property) and not name.startswith("_")
    ]
    return "".join(f"\n{line}" for line in lines) + "\n" if lines else ""


def _fields(kind: type) -> Iterator[tuple[str, str]]:
    """Yield `name: type = default` and the string literal below it, if there is one."""
    if issubclass(kind, BaseException):
        return
    for statement, text in documented_fields(kind):
        if not ast.unparse(statement.target).startswith("_"):
            yield ast.unparse(statement), f": {text}" if text else ""


def _text(docstring: str) -> str:
    """Return a docstring as Markdown: arguments as a list, an example as a block that runs."""
    parts = [_paragraph(part) for part in re.split(r"\n\n+", docstring)]
    return "\n\n".join(parts) + "\n"


def _paragraph(part: str) -> str:
    if part.startswith(">>>"):
        lines = [
            line[4:] if line.startswith((">>> ", "... ")) else f"# {line}"
            for line in part.splitlines()
        ]
        return "\n".join(["```python", *lines, "```"])
    heading, _, rest = part.partition("\n")
    if heading.endswith(":") and rest.startswith("    "):
        items = re.split(r"\n(?=\S)", textwrap.dedent(rest))
        listed = []
        for item in items:
            name, _, text = one_line(item).partition(": ")
            listed.append(f"- `{name}`: {text}")
        return "\n".join([heading, "", *listed])
    return part


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page()))
