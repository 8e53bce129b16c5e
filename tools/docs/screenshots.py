"""Take pictures of every view of an HTML report, to judge it by what people see.

    peft-regress report --html report.html
    python tools/docs/screenshots.py report.html runs/screenshots

Each view and the page of the case with the most changes, in both themes, 1280 and 390 pixels wide,
goes to `VIEW-THEME-WIDTH.png`.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any, Final

from chromium import NO_CHROMIUM, find_chromium, running_chromium

_TALLEST: Final = 2600
"""Pixels; a longer page is cut, or its picture could not be read."""
_DRAWN: Final = "() => [...document.querySelectorAll('main .plot')].every(plot => plot.firstChild)"
_READY: Final = "() => globalThis.page !== undefined"
_CASE: Final = (
    "`case/${encodeURIComponent(d3.greatest(page.DATA.cases, item => item.marks.length)?.id)}`"
)


def take_pictures(browser: Any, file: Path, folder: Path) -> None:
    """Write the pictures of a page into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme, width in product(("light", "dark"), (1280, 390)):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
        )
        page = context.new_page()
        page.goto(file.resolve().as_uri())
        page.wait_for_function(_READY)
        routes = {name: name for name in page.evaluate("page.views")}
        routes["case"] = page.evaluate(_CASE)
        for name, route in routes.items():
            page.goto("about:blank")
            page.goto(f"{file.resolve().as_uri()}#/{route}")
            page.wait_for_function(_READY)
            page.wait_for_function(_DRAWN)
            height = min(page.evaluate("document.documentElement.scrollHeight"), _TALLEST)
            clip = {"x": 0, "y": 0, "width": width, "height": height}
            path = folder / f"{name}-{theme}-{width}.png"
            page.screenshot(path=path, full_page=True, clip=clip)
        context.close()


if __name__ == "__main__":
    found = find_chromium()
    if found is None:
        sys.exit(NO_CHROMIUM)
    with running_chromium(found) as chromium:
        take_pictures(chromium, Path(sys.argv[1]), Path(sys.argv[2]))
