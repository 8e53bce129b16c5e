"""tools/ci/prepare.py and publish.py, one after the other, with a `gh` that records its calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import prepare
import publish
import pytest
from publish import LABEL

TOOL = Path(publish.__file__)
FAKE_GH = """#!{python}
import json, os, pathlib, sys
folder = pathlib.Path(__file__).parent
wanted = "-" in sys.argv
call = {{"argv": sys.argv[1:], "stdin": sys.stdin.read() if wanted else ""}}
with open(folder / "calls", "a") as calls:
    print(json.dumps(call), file=calls)
answer = folder / "-".join(sys.argv[1:3])
if answer.exists():
    print(answer.read_text())
if (folder / "red").exists():
    sys.exit("HTTP 403: Resource not accessible by integration")
"""
SHA = "a" * 40
HEAD = {
    "HEAD_REPOSITORY": "fork/r",
    "HEAD_BRANCH": "a&state=all b",
    "HEAD_COMMIT": SHA,
    "RUN_URL": "https://github.com/o/r/actions/runs/12",
}


class Gh:
    """The fake `gh`: its calls, its answers, and whether it fails."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "gh").write_text(FAKE_GH.format(python=sys.executable))
        (folder / "gh").chmod(0o755)

    def answer(self, command, value):
        (self.folder / command).write_text(value if isinstance(value, str) else json.dumps(value))

    @property
    def calls(self):
        recorded = self.folder / "calls"
        return list(map(json.loads, recorded.read_text().splitlines())) if recorded.exists() else []

    def called(self, *command):
        return [c for c in self.calls if tuple(c["argv"][: len(command)]) == command]


@pytest.fixture
def gh(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name, value in (("SERVER_URL", "https://g"), ("REPOSITORY", "o/r"), ("RUN_ID", "12")):
        monkeypatch.setenv(f"GITHUB_{name}", value)
    for name, value in HEAD.items():
        monkeypatch.setenv(name, value)
    return Gh(folder)


def results(folder, *, code=1, findings="## peft 0.14.0: regressed\n\ntext", lines=("peft",)):
    folder.mkdir(exist_ok=True)
    (folder / "exit-code").write_text(f"{code}\n")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in lines))
    (folder / "findings.md").write_text(findings)
    return folder


def published(kind, folder, *options):
    """Prepare as one job does, and publish as another one does."""
    drafts = str(folder.parent / "drafts")
    return prepare.main([kind, str(folder), drafts]) or publish.main([kind, drafts, *options])


# --- The issue ------------------------------------------------------------------------------------


def test_a_regression_opens_an_issue_with_the_finding_and_the_next_one_updates_it(
    gh, tmp_path, capsys
):
    gh.answer("issue-list", [])
    gh.answer("issue-create", "https://github.com/o/r/issues/7")
    assert published("issue", results(tmp_path / "r")) == 0
    assert capsys.readouterr().out.endswith("opened https://github.com/o/r/issues/7\n")
    # Otherwise a stranger's issue with the marker would be edited.
    (listed,) = gh.called("issue", "list")
    assert listed["argv"][2:6] == ["--label", LABEL, "--state", "open"]
    assert gh.called("label", "create")
    (created,) = gh.called("issue", "create", "--label", LABEL, "--title")
    assert created["argv"][5] == "peft 0.14.0: regressed"
    body = created["stdin"]
    assert "## peft 0.14.0: regressed\n\ntext" in body
    assert "(https://g/o/r/actions/runs/12)" in body
    gh.answer("issue-list", [{"number": 7, "body": body}, {"number": 3, "body": "another"}])
    again = results(tmp_path / "r", findings="## peft 0.14.0: regressed more")
    assert published("issue", again) == 0
    assert published("issue", again, "--candidate", "main") == 0
    (edited,) = gh.called("issue", "edit", "7")
    assert edited["argv"][3:5] == ["--title", "peft 0.14.0: regressed more"]
    assert len(gh.called("issue", "create")) == 2


@pytest.mark.parametrize("code", [0, 2, 3, 130])
def test_without_a_regression_nothing_is_called(gh, tmp_path, code):
    assert published("issue", results(tmp_path / "r", code=code)) == 0
    assert gh.calls == []


@pytest.mark.parametrize("kind", ["issue", "comment"])
def test_texts_need_no_package_and_a_dry_run_runs_no_command(gh, tmp_path, kind):
    """The jobs that may write issues and comments install nothing."""
    (results(tmp_path / "r") / "comment.md").write_text("## peft 0.14.0: regressed\n\ntext")
    for tool, *words in (("prepare", "r", "drafts"), ("publish", "drafts", "--dry-run")):
        command = (sys.executable, "-S", "-E", str(TOOL.with_stem(tool)), kind, *words)
        ended = subprocess.run(command, capture_output=True, check=False, text=True, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert f"$ gh {'issue create' if kind == 'issue' else 'pr comment'} " in ended.stdout
    assert "## peft 0.14.0: regressed\n\ntext" in ended.stdout
    assert gh.calls == []


def test_a_long_body_is_cut_and_says_so_and_a_title_is_one_short_line(gh, tmp_path):
    findings = f"# a\tb{'c' * 300}\n\n" + "line of a table\n" * 10_000
    assert published("issue", results(tmp_path / "r", findings=findings)) == 0
    (created,) = gh.called("issue", "create")
    assert created["argv"][5] == "a b" + "c" * 197
    assert 64_000 < len(created["stdin"]) <= 65_536
    assert "Cut: GitHub takes 65,536 characters; the run's artifact has all" in created["stdin"]


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gh, _: (gh.folder / "red").touch(), "exit code 1): HTTP 403: Resource not acc"),
        (lambda gh, _: (gh.folder / "gh").chmod(0o644), "`gh` cannot be run ("),
        (lambda gh, _: gh.answer("issue-list", "no issues"), "did not print a list: 'no issues'"),
        (lambda _, folder: (folder / "exit-code").unlink(), "'' is not an exit code"),
        (lambda _, folder: (folder / "exit-code").write_text("-1"), "'-1' is not an exit code"),
        (lambda _, folder: (folder / "findings.md").write_text(" \n"), "is missing or empty, alth"),
        (lambda _, folder: (folder / "findings.md").unlink(), "is missing or empty, although"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_or_published_gives_a_message_and_exit_2(
    gh, tmp_path, capsys, change, message
):
    folder = results(tmp_path / "r")
    change(gh, folder)
    assert published("issue", folder) == 2
    assert message in capsys.readouterr().err
    assert not gh.called("issue", "create")


# --- The comment ----------------------------------------------------------------------------------


def pull(number=5, *, sha=SHA, repository="fork/r"):
    repo = None if repository is None else {"full_name": repository}
    return {"number": number, "head": {"sha": sha, "repo": repo}}


@pytest.fixture
def verdict(gh, tmp_path):
    folder = tmp_path / "verdict"
    folder.mkdir()
    (folder / "comment.md").write_text(f"{prepare.MARKER}\n## peft_regress: REGRESSED\n")
    gh.answer("api---method", [pull()])
    return folder


def test_a_verdict_is_the_one_comment_on_the_pull_request_whose_head_ran(gh, verdict, capsys):
    for name in ("pr", "number", "pull-request.json", "event.json"):
        (verdict / name).write_text("66")
    assert published("comment", verdict) == 0
    assert capsys.readouterr().out.endswith("\ncommented on pull request 5\n")
    asked, made = gh.calls
    assert asked["argv"][4:8] == ["-f", "state=open", "-f", "head=fork:a&state=all b"]
    assert made["argv"] == [
        *("pr", "comment", "5", "--edit-last", "--create-if-none", "--body-file", "-")
    ]
    assert made["stdin"] == (
        "## peft_regress: REGRESSED\n\n"
        "From [this run](https://github.com/o/r/actions/runs/12) of aaaaaaaaaa, "
        "whose summary links the page. "
        "Its run file is an artifact: `gh run download 12 --name proposed-baseline`"
    )


@pytest.mark.parametrize(
    "pulls",
    [
        [],
        [pull(sha="b" * 40)],  # a newer push
        [pull(repository="another/r")],  # a branch of the same name
        [pull(repository=None)],
    ],
)
def test_only_an_open_pull_request_with_exactly_that_head_gets_the_comment(
    gh, verdict, capsys, pulls
):
    gh.answer("api---method", pulls)
    assert published("comment", verdict) == 0
    assert len(gh.calls) == 1
    assert f"no open pull request has {SHA} of fork/r as its head" in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "", " \n", prepare.MARKER])
def test_without_a_verdict_the_comment_says_so(gh, verdict, text):
    path = verdict / "comment.md"
    path.unlink() if text is None else path.write_text(text)
    assert published("comment", verdict) == 0
    body = gh.called("pr", "comment")[0]["stdin"]
    assert "## peft_regress: no verdict" in body
    assert "links the page" not in body


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "dangling"])
def test_only_a_regular_file_is_read(gh, verdict, capsys, tmp_path, kind):
    """A link could publish GitHub's token, or any file of the machine."""
    path = verdict / "comment.md"
    path.unlink()
    secret = tmp_path / "secret"
    secret.write_text("the token")
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(secret if kind == "link" else tmp_path / "nowhere")
    assert published("comment", verdict) == 2
    assert gh.calls == []
    assert "is not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"## \xff\xfe\x00" + b"x" * 10**6, b"@a " * 10**5, b"```\n" + b"<b>\n" * 10**5]
)
def test_any_bytes_make_a_comment_of_limited_length_that_links_the_run(gh, verdict, content):
    (verdict / "comment.md").write_bytes(content)
    assert published("comment", verdict) == 0
    body = gh.called("pr", "comment")[0]["stdin"]
    assert 64_000 < len(body) <= 65_536
    assert "\0" not in body
    assert "Cut: GitHub takes" in body
    assert body.endswith("`gh run download 12 --name proposed-baseline`")
