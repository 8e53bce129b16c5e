"""The built site in a browser: for everyone, at each width, and from a disk without a server."""

import pytest
from axe_playwright_python.sync_playwright import Axe

pytestmark = pytest.mark.browser

PAGES = ["index", "own-model", "commands", "metrics", "upgrading"]


@pytest.fixture
def page(browser):
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_page_breaks_a_rule_of_access_or_is_wider_than_the_window(width, scheme, page, site):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    for name in PAGES:
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_selector(".md-search[aria-label]", state="attached")
        assert page.evaluate("document.body.dataset.mdColorScheme") == (
            "slate" if scheme == "dark" else "default"
        )
        found = Axe().run(page).response["violations"]
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == [], name
        assert page.evaluate("document.documentElement.scrollWidth") == width, name


def test_the_search_works_from_a_disk_and_asks_no_server(page, site):
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((site / "index.html").as_uri())
    page.locator(".md-search__input").click()
    page.keyboard.type("regress-resume")
    page.locator(".md-search-result__item a[href*='commands.html']").first.wait_for()
    assert complaints == []
    assert [url for url in requests if not url.startswith("file:")] == []
