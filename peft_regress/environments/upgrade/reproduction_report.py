"""A script that shows what moved, with what it prints, as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_regress.report.markdown_syntax import escape_markdown, fenced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft_regress.environments.reproduction.reproduce import Reproduction

__all__ = ["reproduction_blocks"]


def reproduction_blocks(made: Reproduction) -> Iterator[str]:
    """Return a script with what it prints on both sides."""
    yield f"A script that needs no more than {escape_markdown(made.needs)}:"
    yield fenced(made.script.rstrip(), "python")
    for side, output in made.outputs.items():
        yield f"It prints, with {escape_markdown(side)}:"
        yield fenced(output.rstrip(), "text")
