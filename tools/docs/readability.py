"""Count the words of every page, and how hard its sentences are to read.

    python tools/docs/readability.py

Exit code 1, with the sentences in question, if a page or all of them are over a limit. Words are
all that a page holds, code and tables too. Sentences are those of its paragraphs and lists, for the
longest also those of table cells; code among their words counts as one short word.
"""

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = (".", ".github", "docs", "examples", "fuzz/**", "peft_regress/**")
AVERAGE: Final = 25
LONGEST: Final = 45
ALL_WORDS: Final = 45_000
WORDS: Final = {"docs/choosing.md": 1_200, "docs/own-script.md": 800}
README_LINES: Final = 150


class Page(NamedTuple):
    """One page, as a reader meets it."""

    name: str
    words: int
    sentences: list[str]
    """Of paragraphs and lists."""
    cells: list[str]
    """Sentences of table cells."""

    @property
    def words_a_sentence(self) -> float:
        """Return the mean."""
        return sum(map(length, self.sentences)) / max(len(self.sentences), 1)

    @property
    def longest(self) -> str:
        """Return the sentence with the most words."""
        return max([*self.sentences, *self.cells], key=length, default="")


def length(sentence: str) -> int:
    """Return the number of words."""
    return len(re.findall(r"\S*\w\S*", sentence))


def read_page(name: str, text: str) -> Page:
    """Return the page that a Markdown text is."""
    sentences: list[str] = []
    cells: list[str] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in itertools.pairwise(tokens):
        if token.type == "inline" and before.type != "heading_open":
            found = cells if before.type in {"td_open", "th_open"} else sentences
            found += re.split(r"(?<=[.!?])[\"')]*\s+", "".join(plain(token)).strip())
    return Page(name, len(text.split()), [one for one in sentences if length(one)], cells)


def plain(inline: Token) -> Iterator[str]:
    """Give the words of a paragraph: links as they show, code as one word."""
    for token in inline.children or ():
        if token.type == "text":
            yield token.content
        elif token.type == "code_inline":
            yield "code"
        elif token.type in {"softbreak", "hardbreak"}:
            yield " "


def too_much(pages: list[Page], readme_lines: int) -> Iterator[str]:
    """Say what is over a limit."""
    for page in pages:
        if page.words_a_sentence > AVERAGE:
            yield f"{page.name}: {page.words_a_sentence:.1f} words a sentence, {AVERAGE} at most"
        for one in [*page.sentences, *page.cells]:
            if length(one) > LONGEST:
                yield f"{page.name}: a sentence of {length(one)} words, {LONGEST} at most: {one}"
        if page.words > WORDS.get(page.name, page.words):
            yield f"{page.name}: {page.words:,} words, {WORDS[page.name]:,} at most"
    if readme_lines > README_LINES:
        yield f"README.md: {readme_lines} lines, {README_LINES} at most"
    if (words := sum(page.words for page in pages)) > ALL_WORDS:
        yield f"all pages: {words:,} words, {ALL_WORDS:,} at most"


def main() -> None:
    """Print the table, and then what is over a limit."""
    paths = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md"))
    texts = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in paths}
    pages = [read_page(name, text) for name, text in texts.items()]
    print("| page | words | words a sentence | longest |")
    print("| --- | ---: | ---: | ---: |")
    for page in pages:
        numbers = f"{page.words_a_sentence:.1f} | {length(page.longest)}"
        print(f"| {page.name} | {page.words:,} | {numbers} |")
    print(f"| all {len(pages)} | {sum(page.words for page in pages):,} | | |")
    problems = list(too_much(pages, texts["README.md"].count("\n")))
    sys.exit("\n".join(problems) or 0)


if __name__ == "__main__":
    main()
