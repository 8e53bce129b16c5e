"""The pictures of the documents: up to date, reproducible, described, without a network."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import picture_drawing
import pictures
import pytest
from examples import PAGES, ROOT
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from paper_rows import FLOP_FIGURES, MEMORY_FIGURES
from picture_data import FLOP_METHODS, MEMORY_METHODS, pareto_front
from pictures import PICTURES, is_current, main

MEASURED = [name for name, picture in PICTURES.items() if picture.measures]
STORED = [name for name, picture in PICTURES.items() if not picture.measures]


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
    assert main(["--check", "--only", *MEASURED]) == 0, capsys.readouterr().out


def test_every_picture_is_in_a_page_and_every_image_exists():
    shown = {(page.parent / path).resolve() for page, path, _ in images()}
    assert all(path.is_file() for path in shown)
    assert {picture.path for picture in PICTURES.values()} <= shown


def test_every_image_is_described_in_words():
    assert len(images()) >= len(PICTURES)
    for page, path, text in images():
        assert len(text.split()) >= 8, f"{page.name}: {path}"


def test_the_readme_has_two_pictures_at_most():
    assert len([page for page, _, _ in images() if page == ROOT / "README.md"]) <= 2


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_fetches_nothing_and_runs_nothing(name):
    root = ET.parse(PICTURES[name].path).getroot()
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in {"script", "image", "foreignObject"}
        for key, value in element.attrib.items():
            if key.rpartition("}")[2] == "href":
                assert value.startswith("#")
            assert not re.search(r"url\((?!#)", value)
        assert not re.search(r"url\((?!#)|@import", element.text or "")


@pytest.mark.parametrize("name", STORED)
def test_a_picture_is_drawn_the_same_twice(name):
    picture = PICTURES[name]
    shown = picture.data()
    assert picture.draw(shown) == picture.draw(shown)


def memory(architecture, method):
    figures = [
        f for f in MEMORY_FIGURES if (f.row.architecture, f.row.method) == (architecture, method)
    ]
    printed = {figure.name: str(figure.printed) for figure in figures}
    names = ("param", "buffer", "grad", "activation", "temp", "optimizer")
    return {"printed": printed, "measured": {**dict.fromkeys(names, 2**20), "total": 6 * 2**20}}


def test_the_figures_of_the_paper_are_drawn_with_their_totals():
    data = {
        architecture: {method: memory(architecture, method) for method in MEMORY_METHODS}
        for architecture in ("resnet18", "mobilenet_v2")
    }
    texts = "".join(ET.fromstring(picture_drawing.draw_memory(data, "x")).itertext())
    for figure in MEMORY_FIGURES:
        if figure.name == "total" and figure.row.architecture in data:
            assert f"{figure.printed:.2f}" in texts
    assert texts.count("6.00") == 8
    assert "as printed" in texts


def test_flops_that_are_printed_are_drawn_beside_both_counts():
    data = {
        architecture: {
            method: {
                phase: {"printed": None, "paper": 5_000_000_000, "correct": 1_250_000_000}
                for phase in ("forward", "backward")
            }
            for method in FLOP_METHODS
        }
        for architecture in ("resnet18", "mobilenet_v2")
    }
    for figure in FLOP_FIGURES:
        if figure.name != "optimizer":
            phases = data[figure.row.architecture][figure.row.method]
            phases[figure.name]["printed"] = str(figure.printed)
    texts = list(ET.fromstring(picture_drawing.draw_flops(data, "x")).itertext())
    for figure in FLOP_FIGURES:
        if figure.name != "optimizer":
            assert f"{float(figure.printed):.3g}" in texts
    assert texts.count("1.25") == 16


@pytest.fixture
def one_picture(monkeypatch, tmp_path):
    """A picture in a folder of its own; its data can be changed."""
    shown = {"command": "x", "text": "one line\n"}
    picture = pictures.Picture(name="verdict", data=lambda: shown, drawing="draw_verdict")
    monkeypatch.setattr(pictures, "FOLDER", tmp_path)
    monkeypatch.setattr(pictures, "PICTURES", {"verdict": picture})
    return picture, shown


def test_a_picture_that_is_absent_or_of_other_data_is_out_of_date(one_picture, capsys):
    picture, shown = one_picture
    assert main(["--check"]) == 1
    assert "`python tools/docs/pictures.py --only verdict` draws it" in capsys.readouterr().out
    assert main([]) == 0
    assert main(["--check"]) == 0
    shown["text"] = "another line\n"
    assert not is_current(picture, shown)
    assert main(["--check"]) == 1


def test_a_current_picture_is_drawn_again_only_by_force(one_picture):
    picture, _ = one_picture
    main([])
    before = picture.path.stat().st_mtime_ns
    main([])
    assert picture.path.stat().st_mtime_ns == before
    main(["--force"])
    assert picture.path.stat().st_mtime_ns > before


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
