"""tools/ci/prepare.py and publish.py, one after the other, with a `gh` that records its calls."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import prepare
import publish
import pytest
from builders import LORA, accept, make_run, write_run
from publish import LABEL

from peft_regress.baselines.run_adapters import adapters_of_run, keep_adapter
from peft_regress.baselines.storage import baseline_files
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Selection, canonical_digest

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


# --- The baseline ---------------------------------------------------------------------------------


def git(repository, *command):
    ended = subprocess.run(
        ("git", *command), cwd=repository, capture_output=True, check=True, text=True
    )
    return ended.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A clone, with its bare origin, and with one accepted baseline of peft 0.18.1."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("PYTHONPATH", str(TOOL.parents[2]))
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@example.org")
    clone = tmp_path / "clone"
    git(tmp_path, "init", "--quiet", "--bare", "origin")
    git(tmp_path, "init", "--quiet", "--initial-branch=main", "clone")
    git(clone, "remote", "add", "origin", str(tmp_path / "origin"))
    made = write_run(tmp_path / "old.json")
    accept(made, root=clone / "baselines", reason="first", date="2026-01-01T00:00:00+00:00")
    (clone / ".gitignore").write_text("/baselines/.lock\n")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "first")
    monkeypatch.chdir(clone)
    return clone


def release(tmp_path, version="0.19.0", *, code=0, lines=("peft",), **changes):
    folder = results(tmp_path / "r", code=code, lines=lines, findings="## nothing regressed")
    run = make_run(environment={"peft": version, "python": "3.11.7", "torch": "2.13.0"}, **changes)
    write_run(folder / "run.json", run)
    return folder


def keep_an_adapter(folder):
    """Keep an adapter beside the run, as a measurement does; return its folder."""
    run_file = folder / "run.json"
    record = read_run_file(run_file).run.cases[LORA]
    keep_adapter(
        adapters_of_run(run_file),
        record.case,
        definition=record.definition,
        output=[[0.0]],
        save=lambda made: (made / "config.json").write_text("{}"),
    )
    (adapter,) = adapters_of_run(run_file).iterdir()
    return adapter


@pytest.mark.parametrize("is_detached", [False, True])
def test_a_release_in_which_nothing_regressed_is_offered_with_its_adapters(
    gh, repository, tmp_path, capsys, is_detached
):
    gh.answer("pr-list", [])
    gh.answer("pr-create", "https://github.com/o/r/pull/8")
    if is_detached:
        git(repository, "checkout", "--quiet", "--detach")
    folder = release(tmp_path)
    keep_an_adapter(folder)
    assert published("baseline", folder) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.endswith("offered https://github.com/o/r/pull/8\n")
    branch = "baseline/peft-0.19.0"
    assert git(repository, "ls-remote", "--heads", "origin").endswith(f"refs/heads/{branch}")
    changed = git(repository, "diff", "--name-only", "main", branch).split()
    assert all(name.startswith("baselines/") for name in changed)
    assert any(name.startswith("baselines/adapters/") for name in changed)
    (new,) = (name for name in changed if name.endswith("0002_peft-0.19.0.json"))
    accepted = json.loads(git(repository, "show", f"{branch}:{new}"))["peft_regress"]["accepted"]
    assert accepted["role"] == "baseline"
    assert accepted["reason"] == "peft 0.19.0: nothing regressed against 0001_peft-0.18.1"
    (created,) = gh.called("pr", "create", "--head", branch, "--title", "Baseline of peft 0.19.0")
    assert "## nothing regressed" in created["stdin"]
    # Only the branch is left in the clone.
    assert git(repository, "branch", "--show-current") == ("" if is_detached else "main")
    assert git(repository, "status", "--porcelain") == ""
    assert len(baseline_files(repository / "baselines")) == 1


@pytest.mark.parametrize("state", ["OPEN", "CLOSED", "MERGED"])
def test_a_pull_request_is_never_opened_twice(gh, repository, tmp_path, capsys, state):
    gh.answer("pr-list", [{"number": 8, "state": state}])
    assert published("baseline", release(tmp_path)) == 0
    assert "already" in capsys.readouterr().out
    (listed,) = gh.calls
    assert listed["argv"][2:6] == ["--head", "baseline/peft-0.19.0", "--state", "all"]
    assert git(repository, "branch", "--list") == "* main"


@pytest.mark.parametrize(
    "changes",
    [
        *({"code": code} for code in (1, 2, 3)),
        *({"version": version} for version in ("0.18.1", "0.14.0", "0.20.0.dev0", "0.19.0rc1")),
        {"selection": Selection(complete=False, narrowed_by=["-k lora"], not_selected=[])},
        {"lines": ["peft @ git+https://g/peft@main"]},
        {"lines": ["."]},
        {"lines": ["peft", "unheard-of"]},
    ],
    ids=str,
)
@pytest.mark.usefixtures("repository")
def test_only_a_whole_run_of_a_newer_release_is_offered(gh, tmp_path, capsys, changes):
    assert published("baseline", release(tmp_path, **changes)) == 0
    assert "no baseline to offer" in capsys.readouterr().out
    assert gh.calls == []


OLD = {"peft": "0.18.1", "torch": "2.13.0+cpu", "galore-torch": "1.0"}


@pytest.mark.parametrize(
    ("lines", "versions", "newer"),
    [
        (["peft==0.19.0", "Galore_Torch"], {"peft": "0.19.0"}, {"peft": "0.19.0"}),
        # The local part names a build of the same release.
        (["torch==2.13.0"], {"torch": "2.13.0"}, {}),
        (["torch"], {"torch": "2.14.0+cpu"}, {"torch": "2.14.0"}),
        (["peft", "torch"], {"peft": "0.19.0", "torch": "2.12.0"}, {}),
    ],
)
def test_a_release_is_newer_if_no_required_package_is_older(lines, versions, newer):
    assert prepare.newer_releases(lines, {**OLD, **versions}, OLD) == newer


def test_a_baseline_that_cannot_be_pushed_leaves_the_checkout_as_it_was(
    gh, repository, tmp_path, capsys
):
    git(repository, "remote", "set-url", "origin", str(tmp_path / "nowhere"))
    assert published("baseline", release(tmp_path)) == 2
    err = capsys.readouterr().err
    assert "push --force origin baseline/peft-0.19.0` failed (exit code 128): fatal:" in err
    assert git(repository, "branch", "--show-current") == "main"
    (repository / "baselines" / "notes.txt").write_text("mine")
    assert publish.main(["baseline", str(tmp_path / "drafts")]) == 2
    assert "baselines has uncommitted changes" in capsys.readouterr().err
    assert not gh.called("pr", "create")


# --- A hostile artifact ---------------------------------------------------------------------------


def tree(folder):
    """Return the content of each file below a folder, but git's own."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".git" not in path.parts
    }


@pytest.fixture
def outside(repository, tmp_path, monkeypatch):
    """A home beside the clone; at the end nothing in either has changed but the drafts."""
    home = tmp_path / "home"
    (home / ".config" / "git").mkdir(parents=True)
    (home / "secret").write_text("the token")
    monkeypatch.setenv("HOME", str(home))
    before = tree(home), tree(repository)
    yield home
    assert (tree(home), tree(repository)) == before


def with_method(method):
    def change(ours):
        record = ours["cases"].pop(LORA)
        record["case"]["method"] = method
        ours["cases"][f"shift/{method}-r4/resnet18"] = record

    return change


@pytest.mark.parametrize(
    "change",
    [
        with_method("../../benchmarks/torch"),
        with_method("/etc/x"),
        lambda ours: ours["environment"].update(peft="0.19.0\nmain"),
        lambda ours: ours["environment"].update({"../../x": "1"}),
        lambda ours: ours["machine"].update(digest="../../x"),
        lambda ours: ours["cases"].clear(),
    ],
    ids=["parent", "absolute", "branch", "package", "machine", "altered"],
)
def test_a_forged_run_is_refused_before_anything_is_written(gh, outside, tmp_path, capsys, change):
    """It has the digest of its content, as whoever forges one would write; but for the last."""
    folder = release(tmp_path)
    path = folder / "run.json"
    document = json.loads(path.read_text())
    ours = document["peft_regress"]
    digest = ours.pop("content_digest")
    change(ours)
    ours["content_digest"] = canonical_digest(ours) if ours["cases"] else digest
    path.write_text(json.dumps(document))
    assert published("baseline", folder) == 2
    assert "gate the candidate again" in capsys.readouterr().err
    assert gh.calls == []


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "name"])
def test_an_adapter_that_is_no_plain_file_is_refused(gh, outside, tmp_path, capsys, kind):
    """A link could publish a secret of the machine."""
    adapter = keep_an_adapter(release(tmp_path))
    if kind == "link":
        (adapter / "secret").symlink_to(outside / "secret")
    elif kind == "folder":
        (adapter / "secrets").symlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(adapter / "pipe")
    else:
        (adapter / "a b").write_text("")
    assert published("baseline", tmp_path / "r") == 2
    assert re.search("not a regular file|no name of a file", capsys.readouterr().err)
    assert gh.calls == []


@pytest.mark.parametrize(
    ("name", "links_to"),
    [
        ("adapters/lora/conftest.py", None),
        ("sources/resnet18.safetensors", None),
        ("run.json", None),
        ("machine/0009_a b.json", None),
        ("machine/0009_a.json", "secret"),
        ("machine", "."),
    ],
)
@pytest.mark.usefixtures("outside")
def test_the_job_that_writes_takes_only_plain_files_of_a_storage(
    gh, tmp_path, capsys, name, links_to
):
    """Even of the job that prepared them: it read what others wrote."""
    drafts = tmp_path / "drafts"
    assert prepare.main(["baseline", str(release(tmp_path)), str(drafts)]) == 0
    path = drafts / "files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if links_to is None:
        path.write_text("{}")
    else:
        path.symlink_to(tmp_path / "home" / links_to)
    assert publish.main(["baseline", str(drafts)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert gh.calls == []


@pytest.mark.usefixtures("outside")
def test_a_stored_entry_is_never_replaced(gh, tmp_path, repository, capsys):
    drafts = tmp_path / "drafts"
    assert prepare.main(["baseline", str(release(tmp_path)), str(drafts)]) == 0
    (entry,) = baseline_files(repository / "baselines")
    (drafts / "files" / entry.relative_to(repository / "baselines")).write_text("{}")
    gh.answer("pr-list", [])
    assert publish.main(["baseline", str(drafts)]) == 2
    assert "a stored file is never replaced" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["a/../../main", "x:main", "--delete", "a\r::error::b", "../x"])
@pytest.mark.usefixtures("outside")
def test_a_branch_is_below_baseline_whatever_the_draft_says(gh, tmp_path, capsys, line):
    drafts = tmp_path / "drafts"
    assert prepare.main(["baseline", str(release(tmp_path)), str(drafts)]) == 0
    (drafts / "baseline.md").write_text(f"{line}\n\ntext")
    gh.answer("pr-list", [{"number": 1}])
    assert publish.main(["baseline", str(drafts)]) == 0
    assert "::error" not in capsys.readouterr().out.replace("\r", "\n").partition("already")[0]
    (listed,) = gh.calls
    assert re.fullmatch(r"baseline/[A-Za-z0-9][A-Za-z0-9.-]*", listed["argv"][3])
