"""tools/docs/evidence_tables.py: the page has the tables of evidence.json."""

import evidence_tables as tool
import pytest
from page_tables import put


@pytest.mark.parametrize("name", tool.TABLES)
def test_each_table_is_on_the_page_as_it_is_made_now(name):
    page = tool.PAGE.read_text()
    assert put(page, "evidence", name, tool.TABLES[name]()) == page


def test_a_cell_has_the_mean_and_the_paired_interval():
    """Differences of 1, 2 and 3 points: 2 +- 4.303 x 1 / sqrt(3)."""
    scores = {"full": (0.5, 0.6, 0.7), "head": (0.51, 0.62, 0.73)}
    assert tool.cell(scores, "head") == "62.0 (+2.0 ± 2.5)"
    assert tool.cell(scores, "full") == "60.0"
    assert tool.cell(scores, "lora-r4") == "-"
