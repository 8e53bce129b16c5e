"""The pictures of the report's views, by which people judge it."""

import struct

import pytest
from page_world import one_case, written_page
from screenshots import take_pictures

pytestmark = pytest.mark.browser


@pytest.mark.nightly
def test_each_view_of_a_page_has_a_picture_in_both_themes_and_widths(browser, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(written_page(one_case()), encoding="utf-8")
    take_pictures(browser, file, tmp_path / "made")
    widths = {
        path.name: struct.unpack(">I", path.read_bytes()[16:20])[0]
        for path in (tmp_path / "made").iterdir()
    }
    for view in ("table", "case"):
        assert {name: width for name, width in widths.items() if name.startswith(view)} == {
            f"{view}-{theme}-{width}.png": width
            for theme in ("light", "dark")
            for width in (1280, 390)
        }
