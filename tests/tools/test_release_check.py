"""tools/ci/release_check.py: what keeps a tag from being published."""

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


@pytest.fixture
def project(tmp_path):
    for name, text in GOOD.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def check(project, capsys, tag="v0.3.0"):
    code = release_check.main([tag, str(project)])
    return code, capsys.readouterr()


def test_a_tag_with_which_all_agrees_is_a_release(project, capsys):
    code, printed = check(project, capsys)
    assert (code, printed.out, printed.err) == (0, "v0.3.0 is a release\n", "")
    # This checkout is read; until it has an owner it is no release.
    code, printed = check(ROOT, capsys, "v0.0.1")
    assert (code, "the version is" in printed.err) == (1, True)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("pyproject.toml", ("0.3.0", "0.3.1"), "the version is 0.3.1, but the tag 'v0.3.0'"),
        ("pyproject.toml", ("[project.urls]\nSource", "[other]\nSource"), "has no [project.urls]"),
        (
            "CHANGELOG.md",
            ("## [0.3.0] - 2027-01-02", "## [0.3.0]"),
            "no text below `## [0.3.0] - Y",
        ),
        ("CHANGELOG.md", ("- New.\n", ""), "no text below"),
        ("CITATION.cff", ("0.3.0", "0.2.0"), "version is not 0.3.0"),
        ("CITATION.cff", ("2027-01-02", "2026-11-26"), "date-released is not 2027-01-02"),
        ("docs/install.md", ("Install", "Install OWNER/peft_regress"), "install.md: says OWNER"),
        ("peft_regress/messages/links.py", ("/edge/", "/OWNER/"), "links.py: says OWNER"),
    ],
)
def test_whatever_disagrees_is_named_with_its_place(project, capsys, name, change, words):
    path = project / name
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change, 1))
    code, printed = check(project, capsys)
    assert code == 1
    assert words in printed.err
    assert printed.err.count("error:") == 1
