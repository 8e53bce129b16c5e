"""How the page is put together: nothing in its data can be markup, nothing in it asks a network."""

import base64
import gzip
import hashlib
import json
import re
from collections import Counter
from html.parser import HTMLParser
from importlib import resources

import pytest
from page_world import world, written_page

from peft_regress.report.page.render import LIBRARIES, SCRIPTS, packed, render_page

PAGE = resources.files("peft_regress.report.page")
VENDORED = {
    "d3.min.js": "912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1",
    "plot.umd.min.js": "4358086467740777dd788d6b27a95cebdbaefdd50c730a3060117073bd7134cb",
}
HOSTILE = [
    "</script><script>alert(1)</script>",
    "</SCRIPT >",
    "<!-- <script>",
    "-->",
    "]]>",
    "&lt;b&gt; & \u2028 \u2029 \x00 \x1b[31m \u202e",
    "\ud800 alone",
    "{{ 7 * 7 }} {% raw %}",
    "x" * 10_000,
]


class Elements(HTMLParser):
    """The elements of a page, and what stands in its scripts."""

    def __init__(self, page):
        super().__init__(convert_charrefs=False)
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)

    def policy(self):
        [content] = [
            dict(attributes)["content"]
            for tag, attributes in self.tags
            if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attributes
        ]
        parts = [part.split() for part in content.split(";")]
        return {name: values for name, *values in parts}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_string_of_a_file_is_markup_and_all_can_be_read_back(text):
    page = render_page({"data": text})
    assert Elements(page).tags == Elements(render_page({})).tags
    data = packed(text)
    assert json.loads(gzip.decompress(base64.b64decode(data))) == text


def test_nan_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        render_page({"x": float("nan")})


def test_the_policy_allows_the_scripts_of_the_page_and_no_others():
    elements = Elements(written_page(world(tasks=("shift",), pairs=False)))
    policy = elements.policy()
    scripts = [text for attributes, text in elements.scripts if not attributes]
    assert len(scripts) == len(LIBRARIES) + 1
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]
    assert policy["script-src"] == [f"'sha256-{digest}'" for digest in digests]
    assert policy["default-src"] == ["'none'"]
    assert policy.keys() == {"default-src", "script-src", "style-src", "base-uri", "form-action"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_libraries_are_those_that_their_readme_names(name):
    content = PAGE.joinpath("vendor", name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == VENDORED[name]
    version = re.search(rb"v(\d+\.\d+\.\d+) Copyright", content[:200])[1].decode()
    assert f"| {version} |" in PAGE.joinpath("vendor", "README.md").read_text()
    assert PAGE.joinpath("vendor", f"{name.partition('.')[0]}.LICENSE").is_file()


def test_every_script_is_in_the_page_and_makes_elements_by_hand():
    found = {file.name for file in PAGE.joinpath("assets").iterdir() if file.name.endswith(".js")}
    assert found == set(SCRIPTS)
    assert len(SCRIPTS) == len(found)
    for name in SCRIPTS:
        script = PAGE.joinpath("assets", name).read_text(encoding="utf-8")
        # What Python wrote is put in by one function.
        script = script.replace("template.innerHTML", "")
        unsafe = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\.html\(|"
            r"DOMParser|\bfetch\(|XMLHttpRequest|https?:",
            script,
        )
        assert unsafe == [], name


def test_no_two_scripts_define_one_name():
    scripts = [PAGE.joinpath("assets", name).read_text(encoding="utf-8") for name in SCRIPTS]
    names = re.findall(r"^(?:function|const|let|class) (\w+)", "\n".join(scripts), re.MULTILINE)
    assert [name for name, count in Counter(names).items() if count > 1] == []
