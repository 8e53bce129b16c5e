"""tools/ci/publish.py, with a `gh` that records its calls."""

import json
import os
import re
import sys

import publish
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from publish import defused, defused_outside_code, fit

FAKE_GH = """#!{python}
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
call = {{"argv": sys.argv[1:], "stdin": sys.stdin.read() if "-" in sys.argv else ""}}
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


def results(folder, *, code=1, findings="## peft 0.14.0: regressed\n\ntext"):
    folder.mkdir(exist_ok=True)
    (folder / "exit-code").write_text(f"{code}\n")
    (folder / "findings.md").write_text(findings)
    return folder


def published(kind, folder, *options):
    return publish.main([kind, str(folder), *options])


def test_a_regression_opens_an_issue_with_the_finding_and_the_next_one_updates_it(
    gh, tmp_path, capsys, snapshot
):
    gh.answer("issue-list", [])
    gh.answer("issue-create", "https://github.com/o/r/issues/7")
    assert published("issue", results(tmp_path / "r")) == 0
    body = gh.calls[-1]["stdin"]
    gh.answer("issue-list", [{"number": 7, "body": body}, {"number": 3, "body": "another"}])
    again = results(tmp_path / "r", findings="## peft 0.14.0: regressed more")
    assert published("issue", again) == 0
    # That of another candidate is another issue.
    assert published("issue", again, "--candidate", "main") == 0
    assert (gh.calls, capsys.readouterr().out) == snapshot


@pytest.mark.parametrize("code", [0, 2, 3])
def test_only_a_regression_is_an_issue(gh, tmp_path, capsys, code):
    assert published("issue", results(tmp_path / "r", code=code)) == 0
    assert "no issue" in capsys.readouterr().out
    assert gh.calls == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gh, _: (gh.folder / "red").touch(), "HTTP 403: Resource not accessible"),
        (lambda gh, _: gh.answer("issue-list", "no issues"), "did not print a list: 'no issues'"),
        (lambda _, folder: (folder / "exit-code").unlink(), "has no exit-code"),
        (lambda _, folder: (folder / "findings.md").write_text(" \n"), "or no findings.md"),
    ],
)
def test_what_cannot_be_read_or_published_gives_a_message_and_exit_2(
    gh, tmp_path, capsys, change, message
):
    folder = results(tmp_path / "r")
    change(gh, folder)
    assert published("issue", folder) == 2
    assert message in capsys.readouterr().err
    assert not gh.called("issue", "create")


def pull(*, sha=SHA, repository="fork/r"):
    repo = None if repository is None else {"full_name": repository}
    return {"number": 5, "head": {"sha": sha, "repo": repo}}


@pytest.fixture
def verdict(gh, tmp_path):
    folder = tmp_path / "verdict"
    folder.mkdir()
    (folder / "comment.md").write_text("<!-- peft-regress -->\n## peft_regress: REGRESSED @me\n")
    gh.answer("api---method", [pull()])
    return folder


def test_a_verdict_is_the_one_comment_on_the_pull_request_whose_head_ran(
    gh, verdict, capsys, snapshot
):
    assert published("comment", verdict) == 0
    assert (gh.calls, capsys.readouterr().out) == snapshot


@pytest.mark.parametrize(
    "pulls",
    [[], [pull(sha="b" * 40)], [pull(repository="another/r")], [pull(repository=None)]],
    ids=["none", "a newer push", "a branch of the same name", "a fork that is gone"],
)
def test_only_an_open_pull_request_with_exactly_that_head_gets_the_comment(
    gh, verdict, capsys, pulls
):
    gh.answer("api---method", pulls)
    assert published("comment", verdict) == 0
    assert len(gh.calls) == 1
    assert f"no open pull request has {SHA} of fork/r as its head" in capsys.readouterr().out


def test_without_a_verdict_the_comment_says_so_and_a_link_is_not_read(
    gh, verdict, capsys, tmp_path
):
    """A link could publish GitHub's token, or any file of the machine."""
    path = verdict / "comment.md"
    for change in (lambda: path.write_text(" \n"), path.unlink):
        change()
        assert published("comment", verdict) == 0
        assert "## peft_regress: no verdict" in gh.called("pr", "comment")[-1]["stdin"]
    calls = len(gh.calls)
    (tmp_path / "secret").write_text("the token")
    path.symlink_to(tmp_path / "secret")
    assert published("comment", verdict) == 2
    assert len(gh.calls) == calls
    assert "is a link" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"## \xff\x00" + b"x" * 10**6, b"```\n" + b"<b>\n" * 10**5])
def test_any_bytes_make_a_comment_of_limited_length_that_links_the_run(gh, verdict, content):
    (verdict / "comment.md").write_bytes(content)
    assert published("comment", verdict) == 0
    body = gh.called("pr", "comment")[0]["stdin"]
    assert 64_000 < len(body) <= 65_536
    assert "\0" not in body
    assert "Cut: GitHub takes" in body
    assert body.endswith("`gh run download 12 --name proposed-baseline`")


LIVE_TEXT = re.compile(r"@\w|#\d|\bgh-\d|://|\bwww\.", re.IGNORECASE)
LIVE_TOKENS = {"link_open", "image", "html_inline", "html_block"}
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table"])
ATTACK = """
@octocat @org/team see #12 GH-3 o/r#4 https://evil.example www.evil.example &#64;octocat
[click](https://evil.example) ![i](/x.png) <https://evil.example> GH\\-12 &commat;octocat
<img src=/x onerror=y> <!-- hidden <script>alert(1)</script> <a href=/x>y</a> <DETAILS onclick=x>
"""


def tokens(text):
    return [one for token in MARKDOWN.parse(text) for one in (token, *(token.children or ()))]


def shown(text):
    """Return the text that a reader sees, one line per piece, without code."""
    kinds = {"text", "text_special"}
    return "".join(one.content if one.type in kinds else "\n" for one in tokens(text))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.just(ATTACK)
    | st.text(st.sampled_from("@#<>[](): !-/wW.ghGH1a`~\n\\&;\0\u200b"), max_size=40)
)
def test_nothing_in_any_text_is_live_and_it_reads_as_before(text):
    made = defused(text)
    assert made.replace("\u200b", "") == text.replace("\0", "").replace("\u200b", "")
    assert not LIVE_TEXT.search(shown(made))
    assert not {one.type for one in tokens(made)} & LIVE_TOKENS


LINES = [
    *("@octocat", "", "```", "```python", "````", "  ```", "    ```", "~~~", "> ```", "- ```"),
    *("- a", "  @octocat", "> @octocat", "<details>", "``` x", "```\r@octocat", "<!--", "a | b"),
]


@settings(deadline=None, derandomize=True, max_examples=500)
@given(st.lists(st.sampled_from(LINES), max_size=8))
def test_outside_code_nothing_is_live_wherever_others_see_code(lines):
    """What GitHub's parser takes for a paragraph is never what ours took for code."""
    made = defused_outside_code("\n".join(lines))
    blocks = [token.content for token in MARKDOWN.parse(made) if token.type == "html_block"]
    assert "@octocat" not in shown(made) + "".join(blocks)


def test_code_stays_fit_to_be_copied():
    code = "```python\n@torch.no_grad()\ndef f(): ...\n```"
    sly = "<details>\n```\n@octocat\n```\n\n~~~\n@octocat\n~~~\n> ```\n\n   ```\n@octocat\n"
    made = defused_outside_code(f"## head\n\n{code}\n\n{sly}")
    assert code in made
    assert "@octocat" not in made


@pytest.mark.parametrize("rest", ["é" * 5000, "a\n" * 2500, "```python\n" + "code\n" * 1000])
def test_a_cut_keeps_the_headline_and_closes_code(rest):
    cut = fit(f"# headline\n\n{rest}", longest=1000)
    assert len(cut) <= 1000
    assert cut.startswith("# headline\n")
    assert cut.count("```") % 2 == 0
    assert "\n\nCut: GitHub takes" in cut
