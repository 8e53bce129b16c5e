"""The findings: every script still prints the output that stands with it."""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
from packaging.version import Version

FOLDER = Path(__file__).parents[2] / "docs" / "findings"
INDEX = (FOLDER / "README.md").read_text()
TEXTS = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
SCRIPTS = sorted(FOLDER.glob("*.py"))
UPSTREAM = tomllib.loads((FOLDER / "upstream.toml").read_text())
FRONT_LINE = re.compile(r"^(?:<!--|#) ([a-z-]+)==([0-9.]+)(?: -->)?$", re.MULTILINE)
SECONDS = 60

each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
each = pytest.mark.parametrize("path", [*TEXTS, *SCRIPTS], ids=lambda path: path.stem)


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


def _run_as_main(script, stdout, stderr):
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    runpy.run_path(str(script), run_name="__main__")


@pytest.fixture(scope="module")
def libraries():
    """Fork each script from one process with imported libraries, which saves seconds each."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs the start method forkserver, which this system does not have")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "peft", "galore_torch"])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_OFFLINE", "1")
        environment.setenv("OMP_NUM_THREADS", "1")
        environment.setenv("PYTHONWARNINGS", "ignore")
        yield context


def _installed(path):
    """Return the library of a finding; skips the test if another release is installed."""
    library, release = _front(path)
    try:
        installed = Version(version(library)).public
    except PackageNotFoundError:
        installed = "none"
    if installed != release:
        pytest.skip(f"seen in {library} {release}, and {installed} is installed")
    return library


@pytest.mark.slow
@each
def test_the_script_prints_the_output_in_its_text(path, libraries, tmp_path):
    """A fixed defect fails here: the finding is done, see docs/findings/README.md."""
    library = _installed(path)
    files = [tmp_path / name for name in ("script.py", "stdout", "stderr")]
    files[0].write_text(_block(path, "python"))
    process = libraries.Process(target=_run_as_main, args=files)
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        pytest.fail(f"{path.name}: the script took more than {SECONDS} s")
    assert process.exitcode == 0, files[2].read_text()
    fixed = f"fixed in {library}? see docs/findings/README.md"
    assert files[1].read_text() == _block(path, "text"), fixed


@each_text
def test_a_text_can_be_filed_as_it_is(path):
    text = path.read_text()
    assert "peft_regress" not in text
    assert "peft-regress" not in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Reproduction",
        "Expected",
        "Cause and suggested fix",
        "Reported before",
    ]
    library, release = _front(path)
    assert f"Seen with {library} {release}," in text
    assert len(re.findall(r"^```text$", text, re.MULTILINE)) == 1
    assert len(re.findall(r"^\S|^ +\S", _block(path, "python"), re.MULTILINE)) <= 25


@each_text
def test_a_text_names_the_line_that_is_the_cause(path):
    library = _installed(path)
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


@each_text
def test_nothing_that_is_reported_is_among_the_ten_worst(path):
    assert "same" not in UPSTREAM[path.stem]


def test_every_link_of_the_index_resolves():
    links = re.findall(r"\]\(([^)#]+)", INDEX)
    assert len(links) > len(TEXTS)
    for link in links:
        assert (FOLDER / link).is_file(), link
