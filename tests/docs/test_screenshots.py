"""The pictures of the report's views, by which people judge it."""

from __future__ import annotations

import struct

import pytest
from page_world import one_case, written_page
from screenshots import routes_of, take_pictures

pytestmark = pytest.mark.browser


@pytest.mark.nightly
def test_each_view_of_a_page_has_a_picture_in_both_themes_and_widths(browser, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(written_page(one_case()), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    routes = routes_of(page)
    links = page.locator("nav a")
    assert len(routes) == links.count() + 1
    assert routes["case"] == "case/shift%2Flora-r4%2Fresnet18"
    page.close()
    pictures = list(take_pictures(browser, file, tmp_path / "made", only=("table", "case")))
    widths = {path.name: struct.unpack(">I", path.read_bytes()[16:20])[0] for path in pictures}
    assert widths == {
        f"{view}-{theme}-{width}.png": width
        for view in ("table", "case")
        for theme in ("light", "dark")
        for width in (1280, 390)
    }
    assert len({path.read_bytes() for path in pictures}) == 8
