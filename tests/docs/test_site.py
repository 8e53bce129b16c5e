"""The site that mkdocs makes of docs/: whole, linked, and without a request to another server."""

import re
import runpy
import shutil
from html.parser import HTMLParser

import yaml
from built_site import ROOT, build
from mkdocs.config import load_config

PAGES = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
OUTSIDE = ["changelog.md", "contributing.md"]
REQUESTS = {"script": "src", "img": "src", "iframe": "src", "source": "src"}


class Tags(HTMLParser):
    """What a page asks for by itself, and where its links lead."""

    def __init__(self, text):
        super().__init__()
        self.requests, self.links, self.pictures = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag in REQUESTS and REQUESTS[tag] in found:
            self.requests.append(found[REQUESTS[tag]])
        if tag == "img":
            self.pictures.append(found["src"])
        if tag == "link" and not {"canonical", "prev", "next"} & set(found["rel"].split()):
            self.requests.append(found["href"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


def tags_of(page):
    return Tags(page.read_text())


def names_in(nav):
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav
    return [name for item in items for name in names_in(item)]


def test_every_page_of_docs_is_in_the_navigation_once():
    nav = load_config(str(ROOT / "mkdocs.yml")).nav
    assert sorted(names_in(nav)) == sorted([*map(str, PAGES), *OUTSIDE])


def test_no_page_asks_another_server_for_anything(site):
    for page in site.rglob("*.html"):
        requests = tags_of(page).requests
        assert requests, page
        assert [one for one in requests if re.match(r"(https?:)?//", one)] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text()), sheet
    # Material looks up stars where it finds this component.
    assert 'data-md-component="source"' not in (site / "index.html").read_text()


def test_pictures_show(site):
    shown = {}
    for page in site.rglob("*.html"):
        for picture in tags_of(page).pictures:
            if not picture.startswith("data:") and "logo" not in picture:
                shown[(page.parent / picture).resolve()] = page
    assert {path.name for path in shown} == {path.name for path in (ROOT / "docs").glob("*.svg")}
    assert all(path.is_file() for path in shown)


def test_links_out_of_docs_lead_to_the_repository(site):
    links = tags_of(site / "own-model.html").links
    assert "https://github.com/Team/gate/tree/main/examples" in links
    links = tags_of(site / "contributing.html").links
    assert "https://github.com/Team/gate/blob/main/.ci/run" in links
    assert "architecture.html" in links


def test_the_addresses_are_those_of_the_repository_that_builds(site, monkeypatch):
    assert "https://team.github.io/gate/own-model.html" in (site / "sitemap.xml").read_text()
    text = re.sub(r"<[^>]+>", "", (site / "publishing.html").read_text())
    assert "uses: Team/gate/.github/actions/gate@REF" in text
    assert "OWNER/" not in text
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    hook = runpy.run_path(str(ROOT / "tools" / "docs" / "site_hook.py"))
    assert hook["REPOSITORY"] == "OWNER/peft_regress"


def test_a_broken_link_or_a_lost_page_fails_the_build(tmp_path):
    docs = shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (docs / "index.md").open("a") as page:
        page.write("\n[page](no-page.md) [heading](usage.md#no-heading) [file](../no-file.py)\n")
    (docs / "lost.md").write_text("# Lost\n")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    settings["docs_dir"] = str(docs)
    settings["hooks"] = [str(ROOT / "tools" / "docs" / "site_hook.py")]
    settings["theme"]["custom_dir"] = str(ROOT / "tools" / "docs" / "site_theme")
    configuration = tmp_path / "mkdocs.yml"
    configuration.write_text(yaml.safe_dump(settings))
    done = build(tmp_path / "site", configuration)
    assert done.returncode == 1
    for name in ("no-page.md", "#no-heading", "no-file.py", "lost.md"):
        assert name in done.stderr
