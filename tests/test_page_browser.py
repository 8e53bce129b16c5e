"""The page in a real browser: what its views show, and that nothing leaves or breaks it."""

from __future__ import annotations

import pytest

from page_browser import PageUnderTest
from page_world import current_value, page_data

pytestmark = pytest.mark.browser
DATA = page_data()


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    with PageUnderTest(browser, DATA, tmp_path_factory.mktemp("page")) as page:
        yield page


def test_the_table_sorts_by_a_column_both_ways_with_absent_values_last(opened):
    opened.go("table")
    opened.locator("[data-column=accuracy]").click()
    up = opened.locator("th[aria-sort=ascending]")
    assert up.count() == 1
    known = {case["id"]: current_value(DATA, case, "accuracy") for case in DATA["cases"]}
    rising = sorted((v, i) for i, v in known.items() if v is not None)
    absent = [i for i, v in known.items() if v is None]
    assert opened.texts("tbody th") == [i for _, i in rising] + absent
    opened.locator("[data-column=accuracy]").click()
    falling = sorted((-v, i) for v, i in rising)
    assert opened.texts("tbody th") == [i for _, i in falling] + absent
