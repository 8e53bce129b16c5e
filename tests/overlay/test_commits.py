"""A checkout as it was at a commit: which commit that is, and that the checkout stays as it is."""

import subprocess
from pathlib import Path

import pytest
from checkouts import write_checkout

from peft_regress.errors import InputError
from peft_regress.overlay.commits import earlier_checkouts

HERE = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")


def git(folder, *words):
    done = subprocess.run(
        ("git", "-C", str(folder), *HERE, *words), check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(folder, text):
    (folder / "mine.py").write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "--message", "a change")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A clone with a package in a folder below, one commit ahead of its branch main."""
    for name in ("GITHUB_BASE_REF", "GIT_DIR"):
        monkeypatch.delenv(name, raising=False)
    origin = tmp_path / "origin"
    write_checkout(origin / "python", "mine", "1.0")
    git(tmp_path, "init", "origin")
    commit(origin / "python", "x = 1\n")
    git(tmp_path, "clone", str(origin), "clone")
    git(tmp_path / "clone", "switch", "--create", "change")
    commit(tmp_path / "clone" / "python", "x = 2\n")
    return tmp_path / "clone" / "python"


def earlier(folder, base="merge-base", requirements=None):
    """Return what the module says at the commit, and the title of the commit."""
    asked = [str(folder)] if requirements is None else requirements
    with earlier_checkouts(asked, base) as found:
        *others, clone = found.requirements
        assert others == asked[:-1]
        assert (Path(clone) / "pyproject.toml").exists()
        return (Path(clone) / "mine.py").read_text(), found.title


def test_the_merge_base_is_that_with_the_branch_the_change_is_meant_for(checkout, monkeypatch):
    merge_base = git(checkout, "rev-parse", "HEAD~1")[:12]
    said = f"commit {merge_base}, the merge base with origin/"
    before = git(checkout, "status", "--porcelain"), git(checkout, "worktree", "list")
    assert earlier(checkout) == ("x = 1\n", f"{said}HEAD")
    assert earlier(checkout, requirements=["peft==1", str(checkout)])[0] == "x = 1\n"
    commit(checkout.parents[1] / "origin" / "python", "x = 3\n")
    git(checkout, "fetch")
    assert earlier(checkout)[0] == "x = 1\n"
    # In CI the change may be meant for another branch.
    git(checkout, "update-ref", "refs/remotes/origin/stable", "HEAD~1")
    monkeypatch.setenv("GITHUB_BASE_REF", "stable")
    assert earlier(checkout) == ("x = 1\n", f"{said}stable")
    assert before == (git(checkout, "status", "--porcelain"), git(checkout, "worktree", "list"))


def test_a_commit_can_be_named_and_uncommitted_changes_are_a_change(checkout):
    head = git(checkout, "rev-parse", "HEAD")[:12]
    assert earlier(checkout, "git:HEAD") == ("x = 2\n", f"commit {head}, HEAD")
    git(checkout, "update-ref", "refs/remotes/origin/HEAD", "HEAD")
    with pytest.raises(InputError, match=r"has nothing that origin/HEAD lacks.*git:HEAD~1"):
        earlier(checkout)
    (checkout / "mine.py").write_text("x = 4\n")
    assert earlier(checkout)[0] == "x = 2\n"


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("git:nowhere", "git rev-parse: fatal: Needed a single revision"),
        ("git:--upload-pack=touch hacked", "git rev-parse: fatal"),
        ("merge-base", "has no branch origin/gone: fetch it, as by `git fetch origin`"),
    ],
)
def test_a_commit_that_is_not_there_is_an_error_with_its_remedy(
    checkout, monkeypatch, base, message
):
    monkeypatch.setenv("GITHUB_BASE_REF", "gone")
    with pytest.raises(InputError, match=message):
        earlier(checkout, base)


def test_what_is_no_checkout_has_no_commit(checkout, tmp_path):
    with pytest.raises(InputError, match="no requirement is a checkout; name its folder"):
        earlier(checkout, requirements=["peft==0.14.0"])
    write_checkout(tmp_path / "plain", "mine", "1.0")
    with pytest.raises(InputError, match="not a git repository"):
        earlier(tmp_path / "plain")
