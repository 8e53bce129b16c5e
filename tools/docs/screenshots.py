"""Take pictures of every view of the HTML report, to judge it by what people see.

    python tools/docs/screenshots.py                          of what baselines/ holds
    python tools/docs/screenshots.py --page report.html       of a page that was made before
    python tools/docs/screenshots.py --only history case      of some views, `overview` among them
    python tools/docs/screenshots.py --case shift/head/resnet18

Each view and the page of one case, in both themes, 1280 and 390 pixels wide, goes to
`runs/screenshots/VIEW-THEME-WIDTH.png`, or to another folder by `--to`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from chromium import NO_CHROMIUM, find_chromium, running_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["main", "routes_of", "take_pictures"]

THEMES: Final = ("light", "dark")
WIDTHS: Final = (1280, 390)
_TALLEST: Final = 2600
"""Pixels; a longer page is cut, or its picture could not be read."""

_DRAWN: Final = "() => [...document.querySelectorAll('main .plot')].every(plot => plot.firstChild)"
_READY: Final = "() => globalThis.page !== undefined"
_TELLING_CASE: Final = "d3.greatest(page.DATA.cases, item => item.marks.length)?.id ?? null"


def routes_of(page: Any, case: str | None = None) -> dict[str, str]:
    """Return the address of each view of an open page by name, and that of a case's page.

    `case` is its id, by default the case with the most changes.
    """
    page.wait_for_function(_READY)
    routes = {name: name for name in page.evaluate("page.views")}
    shown = case or page.evaluate(_TELLING_CASE)
    if shown is not None:
        routes["case"] = page.evaluate("id => `case/${encodeURIComponent(id)}`", shown)
    return routes


def take_pictures(
    browser: Any, file: Path, folder: Path, *, only: Sequence[str] = (), case: str | None = None
) -> Iterator[Path]:
    """Write the pictures of a page into a folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme, width in product(THEMES, WIDTHS):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
        )
        page = context.new_page()
        page.goto(file.resolve().as_uri())
        for name, route in routes_of(page, case).items():
            if only and name not in only:
                continue
            page.goto("about:blank")
            page.goto(f"{file.resolve().as_uri()}#/{route}")
            page.wait_for_function(_READY)
            page.wait_for_function(_DRAWN)
            height = page.evaluate("document.documentElement.scrollHeight")
            target = folder / f"{name}-{theme}-{width}.png"
            clip = {"x": 0, "y": 0, "width": width, "height": min(height, _TALLEST)}
            page.screenshot(path=target, full_page=True, clip=clip)
            yield target
        context.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the pictures that are asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--page", type=Path, metavar="FILE", help="by default made of baselines/")
    parser.add_argument("--to", type=Path, metavar="FOLDER", default=Path("runs/screenshots"))
    parser.add_argument("--only", nargs="+", default=(), metavar="VIEW", help="some views")
    parser.add_argument("--case", metavar="ID", help="the case whose page is shown")
    chosen = parser.parse_args(arguments)
    path = find_chromium()
    if path is None:
        print(NO_CHROMIUM, file=sys.stderr)
        return 2
    with TemporaryDirectory() as scratch, running_chromium(path) as browser:
        file = chosen.page or Path(scratch, "report.html")
        if chosen.page is None:
            command = [sys.executable, "-m", "peft_regress", "report", "--html", str(file)]
            subprocess.run(command, check=True)
        for picture in take_pictures(browser, file, chosen.to, only=chosen.only, case=chosen.case):
            print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
