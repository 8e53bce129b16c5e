"""Open a page in Chromium, and record what it must not do."""

import os

import pytest
from chromium import NO_CHROMIUM, find_chromium, running_chromium
from page_world import written_page

_GO = """route => new Promise(done => {
  history.replaceState(null, "", "#/-");
  addEventListener("hashchange", () => done(), {once: true});
  location.hash = `#/${route}`;
})"""
_DRAWN = "() => [...document.querySelectorAll('main .plot')].every(plot => plot.firstChild)"


@pytest.fixture(scope="session")
def browser():
    """Without a browser, skip; in CI, fail."""
    found = find_chromium()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(NO_CHROMIUM)
        pytest.skip(NO_CHROMIUM)
    with running_chromium(found) as running:
        yield running


class PageUnderTest:
    """The page of some data, with its requests and its complaints."""

    def __init__(self, browser, folder):
        self.file = folder / "page.html"
        self.context = browser.new_context(
            viewport={"width": 1280, "height": 900}, color_scheme="light"
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"raised: {error}"))
        self.page.on("dialog", self._note_dialog)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.set_default_timeout(30_000)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def _note_console(self, message):
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.type}: {message.text}")

    def _note_dialog(self, dialog):
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def show(self, content):
        """Load the page of some data in place of the one before; return this object."""
        self.file.write_text(written_page(content), encoding="utf-8")
        self.load("")
        return self

    def load(self, route):
        self.page.goto("about:blank")
        self.page.goto(f"{self.file.as_uri()}#/{route}")
        self.page.wait_for_function("globalThis.page !== undefined")

    def go(self, route):
        """Go to a view by its address, draw it even if it is shown, and wait for its plots."""
        self.page.evaluate(_GO, route)
        self.wait_until_drawn()

    def wait_until_drawn(self):
        """Wait for every plot of the view: the browser draws them a little later."""
        self.page.wait_for_function(_DRAWN)

    def unfold(self):
        self.locator("summary").first.click()
        self.page.wait_for_selector("details[open] table")

    def locator(self, selector):
        main = self.page.locator("main")
        return main.locator(selector) if selector else main

    def texts(self, selector):
        return self.locator(selector).all_inner_texts()

    def width_of_content(self):
        return self.page.evaluate("document.documentElement.scrollWidth")
