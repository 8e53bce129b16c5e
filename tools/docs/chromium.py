"""Find Chromium, and start it for a page."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["NO_CHROMIUM", "find_chromium", "running_chromium"]

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_CHROMIUM: Final = (
    "no Chromium: `apt-get install chromium`, or name one in the environment variable "
    "PEFT_REGRESS_BROWSER"
)


def find_chromium() -> str | None:
    """Return the path of the browser that is named or installed; None without one."""
    named = os.environ.get("PEFT_REGRESS_BROWSER")
    return named or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def running_chromium(path: str) -> Iterator[Any]:
    """Start the browser at a path; without a sandbox, which root cannot have."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()
