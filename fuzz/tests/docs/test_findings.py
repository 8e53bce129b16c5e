"""The findings: every script still prints the output that stands with it."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
from forked_scripts import ended
from packaging.version import Version

FOLDER = Path(__file__).parents[2] / "docs" / "findings"
INDEX = (FOLDER / "README.md").read_text()
TEXTS = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
SCRIPTS = sorted(FOLDER.glob("*.py"))
UPSTREAM = tomllib.loads((FOLDER / "upstream.toml").read_text())
FRONT_LINE = re.compile(r"^(?:<!--|#) ([a-z-]+)==([0-9.]+)(?: -->)?$", re.MULTILINE)
HEADINGS = ["Reproduction", "Expected", "Cause and suggested fix", "Reported before"]

each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)


def _front(path):
    """Return the library and the release of a finding."""
    found = FRONT_LINE.search(path.read_text())
    assert found, f"{path.name} does not say library==release"
    return found[1], found[2]


def _block(path, language):
    """Return the script, or its output: the first block in this language, or the end."""
    if path.suffix == ".py":
        script, output = path.read_text().split("\n# It prints:\n")
        lines = (line.removeprefix("#").removeprefix(" ") for line in output.splitlines())
        return script if language == "python" else "".join(f"{line}\n" for line in lines)
    found = re.search(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{path.name} has no block of {language}"
    return found[1]


def _installed(path):
    """Return which release of a finding's library is installed; `none` if there is none."""
    try:
        return Version(version(_front(path)[0])).public
    except PackageNotFoundError:
        return "none"


@pytest.mark.slow
def test_each_script_prints_the_output_in_its_text(tmp_path):
    """A fixed defect fails here: the finding is done, see docs/findings/README.md."""
    every = (*TEXTS, *SCRIPTS)
    paths = {path.stem: path for path in every if _installed(path) == _front(path)[1]}
    if not paths:
        pytest.skip("every finding was seen in another release than is installed")
    scripts = {name: _block(path, "python") for name, path in paths.items()}
    expected = {name: (0, _block(path, "text")) for name, path in paths.items()}
    assert ended(tmp_path / "scripts", scripts) == expected


@each_text
def test_a_text_can_be_filed_as_it_is(path):
    text = path.read_text()
    assert not re.search("peft[_-]regress", text)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    # Nothing that is reported is among the ten worst.
    assert "same" not in UPSTREAM[path.stem]
    library, release = _front(path)
    assert f"Seen with {library} {release}," in text
    assert len(re.findall(r"^```text$", text, re.MULTILINE)) == 1
    assert len(re.findall(r"^\S|^ +\S", _block(path, "python"), re.MULTILINE)) <= 25


@each_text
def test_a_text_names_the_line_that_is_the_cause(path):
    library, release = _front(path)
    if (installed := _installed(path)) != release:
        pytest.skip(f"seen in {library} {release}, and {installed} is installed")
    cause = r"`([\w/]+\.py)`, line (\d+)[^`]*(?:`[^`]+`[^`]*)*```python\n(.*?)\n"
    file, number, line = re.search(cause, path.read_text().partition("## Cause")[2]).groups()
    source = distribution(library).locate_file(Path(library) / file).read_text().splitlines()
    assert source[int(number) - 1].strip() == line


def _rows():
    """Return (file, upstream) of each row of the index."""
    row = r"^\| \[.*\]\(([\w-]+\.(?:md|py))\) \| (.*?) \|"
    return re.findall(row, INDEX, re.MULTILINE)


def test_the_index_lists_every_text_and_names_its_release():
    assert sorted(file for file, _ in _rows()) == sorted(path.name for path in [*TEXTS, *SCRIPTS])
    for path in [*TEXTS, *SCRIPTS]:
        library, release = _front(path)
        assert f"{library} {release}" in INDEX.partition(", by what a user loses")[0]
        assert path.name.startswith(library.partition("-")[0])


def test_the_index_shows_what_the_searches_found():
    """Each finding was searched by two wordings or more."""
    shown = {Path(file).stem: upstream for file, upstream in _rows()}
    found = {}
    for name, entry in UPSTREAM.items():
        assert len(set(entry["searched"])) >= 2, name
        found[name] = ", ".join(entry.get("same", ["not found"]))
        if "see" in entry:
            found[name] += "; see " + ", ".join(entry["see"])
    assert shown == found


def test_every_link_of_the_index_resolves():
    links = re.findall(r"\]\(([^)#]+)", INDEX)
    assert len(links) > len(TEXTS)
    assert [link for link in links if not (FOLDER / link).is_file()] == []
