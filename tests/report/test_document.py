"""Documents and tables: the same content as text of any width, and as Markdown."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from peft_regress.report.document import (
    Badge,
    CaseId,
    Cases,
    Code,
    Command,
    Line,
    Listing,
    Number,
    Section,
    as_text,
)
from peft_regress.report.html import HtmlWriter
from peft_regress.report.layout import Layout, Row, Table, cells, table_text
from peft_regress.report.markdown import as_markdown
from peft_regress.text import clean

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
TABLE = Table(
    headings=("name", "old", "new", "mark"),
    rows=(
        Row(cells=("conv1", "1,000", "2", ""), notes=("1 extra run",)),
        Row(cells=(".scale", "0", "1,000", ""), is_part=True),
    ),
    numbers=(1, 2),
)
DOCUMENT = [
    Section(title="a case", body=("one fact", ("copy", Code("a | `b`"), "now")), level=2),
    Section(title="a cost: 1 -> 2", body=(TABLE, "a remark", Listing("x = 1\ny = 2", "python"))),
    TABLE,
    Section(title="done", style="good"),
]
_CASES = tuple(CaseId(f"t/m-r{rank}/a", f"t/m-r{rank}/a") for rank in range(8))
FOLDED = [
    Section(title="", body=("no title", Line("what some cases have", 1, _CASES))),
    Section(title="not compared", body=(Cases(_CASES), "a <b>remedy</b>"), level=3, style="bad"),
    Section(title="rows: 9", body=(
        Table(
            headings=("case", "x", "state", "why"),
            rows=tuple(
                Row(cells=(one, Number("1.0", 1.02, "MiB"), Badge("over", "bad"), "w & y"))
                for one in _CASES
            ),
            numbers=(1,),
            not_in_text=(3,),
            most_rows=2,
        ),
    ), folded=True),
    Section(title="what to type:", body=(
        Command("see more", ["show", "'a b'"]), Command("accept", ["accept", "--all"]),
        Section(title="only where there is room", in_text=False, folded=True, body=("x",)),
    )),
]  # fmt: skip


@pytest.mark.parametrize("write", [as_text, as_markdown, HtmlWriter(_CASES[:1]).document])
def test_cases_states_and_commands_in_every_syntax(snapshot, write):
    assert write(FOLDED).replace("><", ">\n<") == snapshot


@pytest.mark.parametrize("width", [60, 24])
def test_a_document_is_text_of_any_width(snapshot, width):
    assert as_text(DOCUMENT, Layout(width=width)) == snapshot


def test_a_document_is_markdown(snapshot):
    assert as_markdown(DOCUMENT) == snapshot


def test_numbers_stay_aligned_if_an_empty_column_is_left_out():
    table = Table(headings=("a", "b", "c"), rows=(Row(cells=("x", "", "1")),), numbers=(2,))
    assert as_markdown([table]).splitlines()[1] == "| --- | ---: |"
    assert table_text(Table(headings=("a", "b", "ccc"), rows=table.rows, numbers=(2,))) == (
        "a  ccc\nx    1"
    )


def test_a_title_has_its_style_only_in_colour():
    assert as_text(DOCUMENT, Layout(colour=True)).endswith("\n\n\x1b[32mdone\x1b[0m")
    assert "\x1b" not in as_text(DOCUMENT)


def test_a_line_beyond_its_most_lines_is_cut_in_text_only():
    document = [Section(title="t", body=(Line("word " * 50, most_lines=2),))]
    assert as_text(document).splitlines()[-1].endswith(" ...")
    assert as_markdown(document).count("word") == 50


letters = st.text(st.sampled_from("ab1 ,|\\`*_<>#é漢\u0301"), max_size=12).map(clean)
rows = st.builds(
    Row,
    cells=st.tuples(letters.map("n{}".format), letters, letters),
    notes=st.lists(letters.map("note{}".format), max_size=2).map(tuple),
    is_part=st.booleans(),
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(rows, min_size=1, max_size=5), st.integers(40, 90))
def test_a_table_has_all_its_cells_whatever_the_width(found, width):
    table = Table(headings=("h", "i", "j"), rows=tuple(found), numbers=(1,))
    shown = table_text(table, Layout(width=width), indent="  ")
    for line in shown.split("\n"):
        assert cells(line) <= width or len(line.split()) == 1
    flat = "".join(shown.split())
    for row in found:
        assert all("".join(cell.split()) in flat for cell in row.cells)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(rows, min_size=1, max_size=5))
def test_a_markdown_table_has_as_many_cells_in_every_row(found):
    table = Table(headings=("h", "i", "j"), rows=tuple(found), numbers=(1,))
    tokens = MARKDOWN.parse(as_markdown([table]))
    kinds = [token.type for token in tokens]
    assert kinds.count("tr_open") == len(found) + 1
    lines = as_markdown([table]).splitlines()
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}) == 1


def test_a_line_of_a_listing_that_goes_on_stays_below_its_start():
    listing = Listing("        conv1.0.lora_magnitude_vector.default: +19.27 MFLOP")
    text = as_text([Section(title="a", body=(listing,))], Layout(width=56))
    assert text.splitlines()[2] == 14 * " " + "+19.27 MFLOP"
