"""The pictures of the documents: up to date, reproducible, described, without a network."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pictures
import pytest
from examples import PAGES, ROOT
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from pictures import PICTURES, main, pareto_front

STORED = ["pareto", "verdict"]


def file_of(name):
    return ROOT / "docs" / f"{name}.svg"


def images():
    """Return (page, path in the link, alternative text) of every image of the pages."""
    return [
        (page, child.attrs["src"], child.content)
        for page in PAGES
        for token in MarkdownIt().parse(page.read_text())
        for child in token.children or ()
        if child.type == "image"
    ]


@pytest.mark.parametrize("name", STORED)
def test_a_picture_of_the_storage_is_current(name, capsys):
    assert main(["--check", "--only", name]) == 0, capsys.readouterr().out


@pytest.mark.nightly
def test_a_picture_of_the_paper_shows_what_is_measured(capsys):
    assert main(["--check", "--only", "paper_ranks"]) == 0, capsys.readouterr().out


def test_every_picture_is_in_a_page_and_every_image_exists():
    shown = {(page.parent / path).resolve() for page, path, _ in images()}
    assert all(path.is_file() for path in shown)
    assert {file_of(name) for name in PICTURES} <= shown


def test_every_image_is_described_in_words():
    assert len(images()) >= len(PICTURES)
    for page, path, text in images():
        assert len(text.split()) >= 8, f"{page.name}: {path}"


def test_the_readme_has_two_pictures_at_most():
    assert len([page for page, _, _ in images() if page == ROOT / "README.md"]) <= 2


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_fetches_nothing_and_runs_nothing(name):
    root = ET.parse(file_of(name)).getroot()
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in {"script", "image", "foreignObject"}
        for key, value in element.attrib.items():
            if key.rpartition("}")[2] == "href":
                assert value.startswith("#")
            assert not re.search(r"url\((?!#)", value)
        assert not re.search(r"url\((?!#)|@import", element.text or "")


@pytest.mark.parametrize("name", STORED)
def test_a_picture_is_drawn_the_same_twice(name):
    data, draw = PICTURES[name]
    shown = data()
    assert draw(shown, "x") == draw(shown, "x")


def test_a_picture_that_is_absent_or_of_other_data_is_out_of_date(monkeypatch, tmp_path):
    shown = {"command": "x", "text": "one line\n"}
    monkeypatch.setattr(pictures, "PICTURES", {"verdict": (lambda: shown, pictures.draw_verdict)})
    assert main(["--check"], folder=tmp_path) == 1
    assert main([], folder=tmp_path) == 0
    assert main(["--check"], folder=tmp_path) == 0
    shown["text"] = "another line\n"
    assert main(["--check"], folder=tmp_path) == 1


@given(
    st.dictionaries(
        st.text(max_size=2), st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1
    )
)
def test_no_point_beats_a_point_of_the_front(points):
    front = pareto_front(points)
    values = {points[name] for name in front}
    unbeaten = {
        (cost, gain)
        for cost, gain in points.values()
        if not any(
            other != (cost, gain) and other[0] <= cost and other[1] >= gain
            for other in points.values()
        )
    }
    assert values == unbeaten
    assert len(front) == len(values)
    assert front == sorted(front, key=lambda name: points[name])
