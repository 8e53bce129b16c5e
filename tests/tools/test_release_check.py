"""tools/ci/release_check.py: what keeps a tag from being published."""

from __future__ import annotations

import pytest
import release_check
from workflow_files import ROOT

GOOD = {
    "pyproject.toml": (
        '[project]\nname = "peft-regress"\nversion = "0.3.0"\n'
        '[project.urls]\nSource = "https://github.com/edge/peft_regress"\n'
    ),
    "CHANGELOG.md": (
        "# Changelog\n\n## [Unreleased]\n\n## [0.3.0] - 2027-01-02\n\n- New.\n\n"
        "## [0.2.0] - 2026-11-26\n\n- Old.\n"
    ),
    "CITATION.cff": 'version: 0.3.0\ndate-released: "2027-01-02"\n',
    "README.md": "# peft_regress\n",
    "docs/install.md": "# Install\n",
    "peft_regress/messages/links.py": 'HOME = "https://github.com/edge/peft_regress"\n',
}
WHEEL, SDIST = "peft_regress-0.3.0-py3-none-any.whl", "peft_regress-0.3.0.tar.gz"


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    for name, text in GOOD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def check(project, capsys, tag="v0.3.0", *options):
    code = release_check.main([tag, "--project", str(project), *options])
    return code, capsys.readouterr()


def test_a_tag_with_which_all_agrees_is_a_release(project, capsys):
    code, printed = check(project, capsys)
    assert (code, printed.out, printed.err) == (0, "v0.3.0 is a release\n", "")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("pyproject.toml", ("0.3.0", "0.3.1"), "the version is 0.3.1, the tag's is 0.3.0"),
        ("pyproject.toml", ("/edge/", "/OWNER/"), "pyproject.toml:5: says OWNER"),
        ("pyproject.toml", ("[project.urls]\nSource", "[other]\nSource"), "has no [project.urls]"),
        (
            "CHANGELOG.md",
            ("## [0.3.0] - 2027-01-02", "## [0.3.0]"),
            "no section `## [0.3.0] - YYYY",
        ),
        ("CHANGELOG.md", ("- New.\n", "\n"), "the section of 0.3.0 is empty"),
        ("CITATION.cff", ("0.3.0", "0.2.0"), "version is 0.2.0, but 0.3.0"),
        (
            "CITATION.cff",
            ("2027-01-02", "2026-11-26"),
            "date-released is 2026-11-26, but 2027-01-02",
        ),
        ("CITATION.cff", ("version", "cff-version"), "version is None, but 0.3.0"),
        ("README.md", ("# peft", "# OWNER/peft"), "README.md:1: says OWNER"),
        ("docs/install.md", ("Install", "Install OWNER/peft_regress"), "install.md:1: says OWNER"),
        ("peft_regress/messages/links.py", ("/edge/", "/OWNER/"), "links.py:1: says OWNER"),
        ("CITATION.cff", ("date", "# OWNER\ndate"), "CITATION.cff:2: says OWNER"),
    ],
)
def test_whatever_disagrees_is_named_with_its_place(project, capsys, name, change, words):
    path = project / name
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change, 1))
    code, printed = check(project, capsys)
    assert code == 1
    assert printed.err.startswith(f"error: {path}:")
    assert words in printed.err
    assert printed.err.count("error:") == 1


@pytest.mark.parametrize("tag", ["0.3.0", "v0.3", "v0.3.0.post1", "v0.3.0\n", "v", "v0.3.0; ls"])
def test_a_tag_of_another_form_is_no_release(project, capsys, tag):
    code, printed = check(project, capsys, tag)
    assert code == 1
    assert "is not of the form v1.2.3" in printed.err


def test_a_prerelease_is_a_release_of_its_own(project, capsys):
    for name in GOOD:
        text = (project / name).read_text()
        (project / name).write_text(text.replace("0.3.0", "0.3.0rc1"))
    assert check(project, capsys, "v0.3.0rc1")[0] == 0
    assert check(project, capsys, "v0.3.0")[0] == 1


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([WHEEL, SDIST], ""),
        ([], "run `python -m build`"),
        ([WHEEL], f"{SDIST!r} is missing"),
        ([SDIST], f"{WHEEL!r} is missing"),
        ([WHEEL, SDIST, "peft_regress-0.2.0.tar.gz"], "is not of it"),
    ],
)
def test_only_the_two_distributions_of_the_version_are_published(project, capsys, names, words):
    dist = project / "dist"
    dist.mkdir()
    for name in names:
        (dist / name).touch()
    code, printed = check(project, capsys, "v0.3.0", "--dist", str(dist))
    assert code == bool(words)
    assert words in printed.err


@pytest.mark.parametrize("name", [name for name in GOOD if "/" not in name])
def test_a_missing_file_is_an_error_and_no_release(project, capsys, name):
    (project / name).unlink()
    code, printed = check(project, capsys)
    assert code == 2
    assert f"{name}: cannot be read" in printed.err


@pytest.mark.parametrize("text", ["[project", "[tool]\n", "[project]\nname = 'x'\n"])
def test_a_project_without_a_version_is_an_error(project, capsys, text):
    (project / "pyproject.toml").write_text(text)
    code, printed = check(project, capsys)
    assert code == 2
    assert "has no version of a project" in printed.err


def test_this_project_is_not_released_while_its_owner_is_unknown(capsys):
    """The day that the owner is known, this test goes."""
    code, printed = check(ROOT, capsys, "v0.2.0")
    assert code == 1
    assert "OWNER" in printed.err
