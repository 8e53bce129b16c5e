"""The comment on a pull request, with a `gh` that simulates GitHub's API and a hostile artifact."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import prepare
import publish
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from publish_comment import BOT, MARKER
from publish_results import LONGEST_BODY
from publish_text import defused, defused_outside_code
from test_publish import TOOL

from peft_regress.report.verdict import markdown

GH = """#!{python}
import json, pathlib, re, sys
folder = pathlib.Path(__file__).parent
state = json.loads((folder / "state.json").read_text())
arguments = sys.argv[1:]
assert arguments.pop(0) == "api"
method, fields, jq = "GET", {{}}, None
while arguments:
    word = arguments.pop(0)
    if word == "--method": method = arguments.pop(0)
    elif word in ("-f", "-F"):
        name, _, value = arguments.pop(0).partition("="); fields[name] = value
    elif word == "--jq": jq = arguments.pop(0)
    elif word == "--input": assert arguments.pop(0) == "-"
    elif word == "--paginate": pass
    else: path = word.removeprefix("repos/{{owner}}/{{repo}}/")
content = json.loads(sys.stdin.read()) if method in ("POST", "PATCH") else None
state["calls"].append([method, path, fields])
if state.get("red"):
    sys.exit("HTTP 403: Resource not accessible by integration")
if path.startswith("actions/runs/"):
    print(json.dumps(state["run"]))
elif path == "pulls":
    owner, _, branch = fields["head"].partition(":")
    print(json.dumps([p for p in state["pulls"] if p["branch"] == branch]))
elif method == "GET":
    number = re.fullmatch(r"issues/(\\d+)/comments\\?per_page=100", path)[1]
    for c in state["comments"]:
        if str(c["pull"]) == number:
            print(json.dumps([c["id"], c["login"], c["body"]]))
elif method == "POST":
    number = re.fullmatch(r"issues/(\\d+)/comments", path)[1]
    new = {{"id": 100 + len(state["comments"]), "pull": int(number), "login": "{bot}", **content}}
    state["comments"].append(new)
else:
    number = re.fullmatch(r"issues/comments/(\\d+)", path)[1]
    (c,) = [c for c in state["comments"] if str(c["id"]) == number]
    c.update(content)
(folder / "state.json").write_text(json.dumps(state))
"""
SHA, OTHER_SHA = "a" * 40, "b" * 40
RUN = {
    "id": 12,
    "html_url": "https://github.com/o/r/actions/runs/12",
    "event": "pull_request",
    "head_sha": SHA,
    "head_branch": "patch-1",
    "head_repository": {"full_name": "fork/r"},
}


def pull(number=5, sha=SHA, repository="fork/r", branch="patch-1"):
    repo = None if repository is None else {"full_name": repository}
    return {"number": number, "branch": branch, "head": {"sha": sha, "repo": repo}}


class GitHub:
    """The fake `gh` and its state."""

    def __init__(self, folder):
        self.file = folder / "state.json"
        (folder / "gh").write_text(GH.format(python=sys.executable, bot=BOT))
        (folder / "gh").chmod(0o755)
        self.set(run=RUN, pulls=[pull()], comments=[], calls=[])

    def set(self, **values):
        known = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.file.write_text(json.dumps({**known, **values}))

    def __getattr__(self, name):
        return json.loads(self.file.read_text())[name]

    @property
    def written(self):
        return [call for call in self.calls if call[0] != "GET"]


@pytest.fixture
def github(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return GitHub(folder)


@pytest.fixture
def verdict(tmp_path):
    folder = tmp_path / "verdict"
    folder.mkdir()
    (folder / "comment.md").write_text(f"{MARKER}\n\n## peft_regress: REGRESSED (1 regressed)\n")
    return folder


def comment(folder, *options):
    """Prepare the comment as one job does, and post it as another one does."""
    drafts = str(folder.parent / "drafts")
    publishing = ["comment", drafts, "--run", "12", *options]
    return prepare.main(["comment", str(folder), drafts]) or publish.main(publishing)


# --- Which comment on which pull request ----------------------------------------------------------


def test_the_first_verdict_creates_the_comment(github, verdict, capsys):
    assert comment(verdict) == 0
    assert capsys.readouterr().out.endswith("\ncommented on pull request 5\n")
    (made,) = github.comments
    assert made["pull"] == 5
    assert made["body"] == (
        f"{MARKER}\n\n## peft_regress: REGRESSED (1 regressed)\n\n"
        "From [this run](https://github.com/o/r/actions/runs/12) of aaaaaaaaaa, "
        "whose summary links the page. "
        "Its run file is an artifact: `gh run download 12 --name proposed-baseline`"
    )


def test_the_next_verdict_replaces_the_text(github, verdict, capsys):
    comment(verdict)
    (verdict / "comment.md").write_text("## peft_regress: no regression (96 unchanged)\n")
    assert comment(verdict) == 0
    assert capsys.readouterr().out.endswith("updated the comment on pull request 5\n")
    (made,) = github.comments
    assert "no regression" in made["body"]
    assert "REGRESSED" not in made["body"]


def test_the_same_verdict_again_writes_nothing(github, verdict, capsys):
    comment(verdict)
    (made,) = github.comments
    github.set(comments=[{**made, "body": made["body"].replace("\n", "\r\n")}], calls=[])
    assert comment(verdict) == 0
    assert github.written == []
    assert "already has this comment" in capsys.readouterr().out


@pytest.mark.parametrize(
    "other",
    [
        {"login": "stranger", "body": f"{MARKER}\n\nmine"},
        {"login": BOT, "body": f"a quotation:\n> {MARKER}"},
        {"login": BOT, "body": ""},
        {"login": BOT, "body": None},
        {"login": BOT, "body": MARKER, "pull": 6},
    ],
)
def test_comments_of_others_and_other_comments_are_left_alone(github, verdict, other):
    github.set(comments=[{"id": 1, "pull": 5, **other}])
    assert comment(verdict) == 0
    first, made = github.comments
    assert first["body"] == other["body"]
    assert made["pull"] == 5


def test_of_two_comments_the_older_is_updated(github, verdict):
    old = [{"id": number, "pull": 5, "login": BOT, "body": MARKER} for number in (9, 7)]
    github.set(comments=old)
    comment(verdict)
    assert [call[1] for call in github.written] == ["issues/comments/7"]


def test_by_hand_the_author_may_be_another_user(github, verdict):
    github.set(comments=[{"id": 1, "pull": 5, "login": "me", "body": MARKER}])
    assert comment(verdict, "--author", "me") == 0
    assert "REGRESSED" in github.comments[0]["body"]


@pytest.mark.parametrize(
    "pulls",
    [
        [],
        [pull(sha=OTHER_SHA)],  # a newer push
        [pull(repository="another/r")],  # a branch of the same name
        [pull(repository=None)],
        [pull(branch="patch-2")],
    ],
)
def test_only_the_open_pull_request_with_exactly_that_head_gets_the_comment(
    github, verdict, capsys, pulls
):
    github.set(pulls=pulls)
    assert comment(verdict) == 0
    assert github.written == []
    assert f"no open pull request has {SHA} of fork/r as its head" in capsys.readouterr().out


def test_github_is_asked_for_the_head_by_owner_and_branch(github, verdict):
    github.set(run={**RUN, "head_branch": "a&state=all b"})
    comment(verdict)
    method, path, fields = github.calls[1]
    assert (method, path) == ("GET", "pulls")
    assert fields == {"state": "open", "head": "fork:a&state=all b", "per_page": "100"}


def test_a_number_in_the_artifact_is_ignored(github, verdict):
    github.set(pulls=[pull(), pull(66, sha=OTHER_SHA)])
    for name in ("pr", "number", "NR", "pull-request.json", "event.json"):
        (verdict / name).write_text("66")
    comment(verdict)
    assert [made["pull"] for made in github.comments] == [5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event": "push"}, "was started by push"),
        ({"head_repository": None}, "the repository of its head was deleted"),
    ],
)
def test_a_run_without_a_pull_request_writes_nothing(github, verdict, capsys, change, message):
    github.set(run={**RUN, **change})
    assert comment(verdict) == 0
    assert github.written == []
    assert message in capsys.readouterr().out


# --- The artifact ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", " \n", MARKER])
def test_without_a_verdict_the_comment_says_so(github, verdict, text):
    path = verdict / "comment.md"
    path.unlink() if text is None else path.write_text(text)
    assert comment(verdict) == 0
    assert "## peft_regress: no verdict" in github.comments[0]["body"]
    assert "links the page" not in github.comments[0]["body"]


def test_without_a_folder_the_comment_says_so(github, tmp_path):
    assert comment(tmp_path / "nowhere") == 0
    assert "## peft_regress: no verdict" in github.comments[0]["body"]


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "dangling"])
def test_only_a_regular_file_is_read(github, verdict, capsys, tmp_path, kind):
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
    assert comment(verdict) == 2
    assert github.written == []
    assert f"{path}: cannot be read (" in capsys.readouterr().err


def test_invalid_bytes_are_replaced(github, verdict):
    (verdict / "comment.md").write_bytes(b"## head \xff\xfe\x00\n")
    assert comment(verdict) == 0
    assert "## head \ufffd\ufffd" in github.comments[0]["body"]
    assert "\0" not in github.comments[0]["body"]


@pytest.mark.parametrize("text", ["x" * 10**6, "@a " * 10**5, "```\n" + "<b>\n" * 10**5])
def test_a_huge_text_is_cut_and_the_run_is_still_linked(github, verdict, text):
    (verdict / "comment.md").write_text(text)
    assert comment(verdict) == 0
    body = github.comments[0]["body"]
    assert LONGEST_BODY - 1000 < len(body) <= LONGEST_BODY
    assert body.startswith(MARKER)
    assert "Cut: GitHub takes" in body
    assert body.endswith("`gh run download 12 --name proposed-baseline`")


LIVE_TEXT = re.compile(r"@\w|#\d|\bgh-\d|://|\bwww\.", re.IGNORECASE)
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table"])
ATTACK = """
@octocat @org/team see #12 GH-3 o/r#4 https://evil.example www.evil.example ftp://x mailto:a@b.c
[click](https://evil.example) ![i](/x.png) [r] <https://evil.example> <a@b.example>
<img src=/x onerror=y> <!-- hidden <script>alert(1)</script> <a href=/x>y</a> <DETAILS onclick=x>

[r]: /x "title"
"""


@pytest.mark.parametrize("text", [ATTACK, f"{MARKER}\n{ATTACK}", f"```\n{ATTACK}\n```\n{ATTACK}"])
def test_a_hostile_text_makes_no_mention_and_no_link_and_hides_nothing(github, verdict, text):
    (verdict / "comment.md").write_text(text)
    assert comment(verdict) == 0
    body = github.comments[0]["body"].removeprefix(MARKER).partition("From [this run]")[0]
    tokens = [one for token in MARKDOWN.parse(body) for one in (token, *(token.children or ()))]
    types = {token.type for token in tokens}
    assert not types & {"link_open", "image", "html_inline", "html_block"}
    assert not re.search(r"@\w|#\d|gh-\d|://|\bwww\.", body, re.IGNORECASE)
    # It can still be read.
    assert "@octocat" in body.replace("\u200b", "")


def test_the_report_s_own_text_stays_as_it_is():
    lines = [
        MARKER.replace("<!--", "").replace("-->", ""),
        "| `shift/lora-r4/resnet18` | `forward_flops` | 3 | 4 | +9.9 % | 0 % | `a` aten.conv |",
        "<details><summary>18 cases more</summary>\n\n</details>",
        "```sh\npytest benchmarks -m \"case(method='dora')\"\n```",
        "peft 0.18.1 -&gt; 0.19.1; peft @ somewhere",
    ]
    for line in lines:
        assert defused(line) == line
    assert markdown.MARKER == MARKER


@pytest.mark.parametrize(
    "text",
    [
        "&#64;octocat", "&#x40;octocat", "&commat;octocat", "\\@octocat", "see &num;12", "&#35;12",
        "GH\\-12", "gh&#45;12", "https&colon;//evil.example", "https:\\//evil.example",
        "https:/\\/evil.example", "www\\.evil.example", "&#119;ww.evil.example",
    ],
)  # fmt: skip
def test_escapes_and_entities_are_defused_too(text):
    """GitHub finds mentions and links after it has resolved escapes and entities."""
    assert LIVE_TEXT.search(shown(text))
    assert not LIVE_TEXT.search(shown(defused(text)))


LINES = [
    *(
        "@octocat",
        "",
        "```",
        "```python",
        "````",
        "  ```",
        "    ```",
        "\t```",
        "~~~",
        "> ```",
        "- ```",
    ),
    *(
        "- a",
        "  @octocat",
        "> @octocat",
        "<details>",
        "</details>",
        "1. ```",
        "``` x",
        "```\r@octocat",
    ),
    *(
        "<!--",
        "-->",
        "a | b",
        "- | -",
        "    @octocat",
        "```  ",
        "`",
        "[r]: /x",
        "# a",
        "===",
        "---",
    ),
]


def shown(text):
    """Return the text that a reader sees, one line per piece, without code."""
    inline = [one for token in MARKDOWN.parse(text) for one in (token, *(token.children or ()))]
    return "".join(one.content if one.type in {"text", "text_special"} else "\n" for one in inline)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(st.sampled_from("@#<>`~ -&\n\r\0a\u200b"), max_size=40))
def test_what_is_defused_stays_as_it_is(text):
    """A draft is defused again by the job that posts it."""
    for function in (defused, defused_outside_code):
        assert function(function(text)) == function(text)


@settings(deadline=None, derandomize=True, max_examples=1000)
@given(st.lists(st.sampled_from(LINES), max_size=8))
def test_outside_code_nothing_is_live_wherever_others_see_code(lines):
    """What GitHub's parser takes for a paragraph is never what ours took for code."""
    made = defused_outside_code("\n".join(lines))
    blocks = [token.content for token in MARKDOWN.parse(made) if token.type == "html_block"]
    assert "@octocat" not in shown(made) + "".join(blocks)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(st.sampled_from("@#<>[](): !-/wW.ghGH1a`~\n\\&;\0\u200b"), max_size=40))
def test_any_text_is_defused_and_reads_as_before(text):
    made = defused(text)
    assert made.replace("\u200b", "") == text.replace("\0", "").replace("\u200b", "")
    assert not re.search(r"@\w|#\d|\bgh-\d|://|\bwww\.|\]\(", made, re.IGNORECASE)
    assert not LIVE_TEXT.search(shown(made))
    types = {one.type for token in MARKDOWN.parse(made) for one in (token, *(token.children or ()))}
    assert not types & {"link_open", "image", "html_inline", "html_block"}


# --- Errors ---------------------------------------------------------------------------------------


def test_a_failing_gh_gives_a_message_and_exit_2(github, verdict, capsys):
    github.set(red=True)
    assert comment(verdict) == 2
    err = capsys.readouterr().err
    assert "failed (exit code 1): HTTP 403" in err
    assert "gh auth status" in err


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ({"run": {"message": "Not Found"}}, "a run"),
        ({"run": None}, "a run"),
        ({"pulls": [{"branch": "patch-1", "number": 5}]}, "pull requests"),
        ({"pulls": [{"branch": "patch-1", "number": 5, "head": {"repo": 3}}]}, "pull requests"),
        ({"comments": [{"id": "x", "pull": 5, "login": BOT, "body": MARKER}]}, "comments"),
    ],
)
def test_an_answer_of_another_form_gives_a_message_and_exit_2(github, verdict, capsys, state, what):
    github.set(**state)
    assert comment(verdict) == 2
    assert f"`gh api` did not return {what}: " in capsys.readouterr().err
    assert github.written == []


@pytest.mark.parametrize("run", ["", "12; rm", "12/../13", "-1x"])
def test_the_id_of_a_run_is_a_number(verdict, run):
    with pytest.raises(SystemExit) as stopped:
        publish.main(["comment", str(verdict), f"--run={run}"])
    assert stopped.value.code == 2


def test_a_dry_run_prints_the_commands_and_runs_none(github, verdict, capsys):
    assert comment(verdict, "--dry-run") == 0
    assert github.calls == []
    out = capsys.readouterr().out
    assert "$ gh api 'repos/{owner}/{repo}/actions/runs/12'" in out
    assert "--method POST 'repos/{owner}/{repo}/issues/PULL-REQUEST/comments'" in out
    assert "## peft_regress: REGRESSED (1 regressed)" in out


def test_the_comment_needs_no_package(verdict, tmp_path):
    steps = (("prepare", str(verdict), "drafts"), ("publish", "drafts", "--run", "12", "--dry-run"))
    for tool, *words in steps:
        command = (sys.executable, "-S", "-E", str(TOOL.with_stem(tool)), "comment", *words)
        ended = subprocess.run(command, capture_output=True, check=False, text=True, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
