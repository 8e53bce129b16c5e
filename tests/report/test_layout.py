"""How text is laid out: no line too wide, no number parted from its unit."""

import io
import re
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.report import terminal
from peft_regress.report.layout import Layout, cells
from peft_regress.text import clean

words = st.text(st.characters() | st.sampled_from("az09-%"), min_size=1, max_size=9)
texts = st.lists(words, max_size=30).map(" ".join).map(clean)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(texts, st.integers(20, 200))
def test_no_line_is_wider_than_the_width_but_for_one_word(text, width):
    lines = Layout(width=width).wrapped(text, indent="    ").split("\n")
    for line in lines:
        assert cells(line) <= width or " " not in re.sub(r"(\d) \S+$", r"\1", line.strip())
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_a_number_keeps_its_unit():
    text = "forward_flops: 618.4 MFLOP -> 1.176 GFLOP  +90.15 % (bound 0 %)"
    for width in range(20, 70):
        lines = Layout(width=width).wrapped(text).split("\n")
        assert not any(re.match(r" *([MG]FLOP|%)", line) for line in lines), width
        assert " ".join(text.split()) == " ".join(" ".join(lines).split())


def test_lines_beyond_the_most_are_cut_with_dots():
    layout = Layout(width=20)
    shown = layout.wrapped("one two three four five six seven eight nine ten", most_lines=2)
    assert shown == "one two three four\n  five six seven ..."
    assert layout.wrapped("one two three four", most_lines=1) == "one two three four"


def test_a_wide_letter_takes_two_columns():
    shown = Layout(width=20).wrapped("漢漢漢漢 漢漢漢漢 漢漢漢漢 漢漢漢漢")
    assert [cells(line) for line in shown.split("\n")] == [17, 19]


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(texts.map(shlex.quote), min_size=1, max_size=8), st.integers(20, 120))
def test_a_broken_command_is_the_same_to_a_shell(words, width):
    shown = Layout(width=width).command(words, indent="    ")
    assert shlex.split(shown.replace("\\\n", "")) == shlex.split(" ".join(words))
    for line in shown.split("\n"):
        words_of_line = shlex.split(line.removesuffix("\\"))
        assert cells(line) <= width or len(words_of_line) <= 1


def test_colour_is_written_line_by_line_and_only_if_wanted():
    assert Layout().styled("a\n\nb", "bad") == "a\n\nb"
    assert Layout(colour=True).styled("a\n\nb", "bad") == "\x1b[1;31ma\x1b[0m\n\n\x1b[1;31mb\x1b[0m"


class Stream(io.StringIO):
    encoding = "utf-8"

    def __init__(self, *, is_terminal):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


@pytest.mark.parametrize(
    ("is_terminal", "environment", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, False),
        (False, {}, False),
    ],
)
def test_colour_is_for_a_terminal_that_wants_it(monkeypatch, is_terminal, environment, coloured):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", Stream(is_terminal=is_terminal))
    assert terminal.stdout_layout().colour is coloured


@pytest.mark.parametrize(("columns", "width"), [("40", 40), ("5", 20), ("300", 300), ("x", 100)])
def test_the_width_is_that_of_the_terminal(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.__stdout__", None)
    assert terminal.layout_of(colour=False).width == width
