"""tools/ci/publish.py, with a `gh` that only records its calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import prepare
import publish
import pytest
from builders import LORA, accept, make_run, write_run
from prepare_baseline import newer_releases
from publish_issue import LABEL
from publish_results import LONGEST_BODY, fit

from peft_regress.baselines.run_adapters import adapters_of_run, keep_adapter
from peft_regress.baselines.storage import baseline_files
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import canonical_digest

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


class Gh:
    """The fake `gh`: its calls, its answers, and whether it fails."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "gh").write_text(FAKE_GH.format(python=sys.executable))
        (folder / "gh").chmod(0o755)

    def answer(self, command, value):
        (self.folder / command).write_text(value if isinstance(value, str) else json.dumps(value))

    def fail(self):
        (self.folder / "red").touch()

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
    for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"):
        monkeypatch.delenv(f"GITHUB_{name}", raising=False)
    return Gh(folder)


def results(folder, *, code=1, findings="## peft 0.14.0: regressed\n\ntext", lines=("peft",)):
    folder.mkdir(exist_ok=True)
    (folder / "exit-code").write_text(f"{code}\n")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in lines))
    (folder / "findings.md").write_text(findings)
    return folder


def issue(folder, *options):
    """Prepare the issue as one job does, and publish it as another one does."""
    drafts = str(folder.parent / "drafts")
    return prepare.main(["issue", str(folder), drafts]) or publish.main(["issue", drafts, *options])


# --- The issue ------------------------------------------------------------------------------------


def test_a_regression_opens_an_issue_with_the_finding(gh, tmp_path, capsys):
    gh.answer("issue-list", [])
    gh.answer("issue-create", "https://github.com/o/r/issues/7")
    assert issue(results(tmp_path / "r")) == 0
    (created,) = gh.called("issue", "create")
    assert created["argv"][2:] == [
        *("--title", "peft 0.14.0: regressed", "--label", LABEL, "--body-file", "-")
    ]
    assert created["stdin"].startswith("<!-- peft-regress upgrade ")
    assert "## peft 0.14.0: regressed\n\ntext" in created["stdin"]
    assert gh.called("label", "create")
    assert capsys.readouterr().out.endswith("opened https://github.com/o/r/issues/7\n")


def opened(gh, folder):
    """Open the issue of a finding; from then on `gh issue list` returns it."""
    gh.answer("issue-list", [])
    assert issue(folder) == 0
    body = gh.called("issue", "create")[-1]["stdin"]
    gh.answer("issue-list", [{"number": 7, "body": body}])
    (gh.folder / "calls").unlink()


def test_the_same_finding_again_changes_nothing(gh, tmp_path, capsys, monkeypatch):
    opened(gh, results(tmp_path / "r"))
    # Another run of the workflow: the body would link to it.
    for name, value in (("SERVER_URL", "https://g"), ("REPOSITORY", "o/r"), ("RUN_ID", "2")):
        monkeypatch.setenv(f"GITHUB_{name}", value)
    assert issue(results(tmp_path / "r")) == 0
    assert [call["argv"][:2] for call in gh.calls] == [["issue", "list"]]
    assert "issue 7 already has this finding" in capsys.readouterr().out


def test_another_finding_of_the_same_candidate_updates_its_issue(gh, tmp_path):
    opened(gh, results(tmp_path / "r"))
    assert issue(results(tmp_path / "r", findings="## peft 0.14.0: regressed more")) == 0
    (edited,) = gh.called("issue", "edit")
    assert edited["argv"][2:5] == ["7", "--title", "peft 0.14.0: regressed more"]
    assert "regressed more" in edited["stdin"]
    assert not gh.called("issue", "create")


def test_another_candidate_has_its_own_issue(gh, tmp_path):
    opened(gh, results(tmp_path / "r"))
    assert issue(results(tmp_path / "r", lines=("peft @ git+https://g/peft@main",))) == 0
    assert gh.called("issue", "create")
    assert not gh.called("issue", "edit")


def test_only_open_issues_with_the_label_count(gh, tmp_path):
    """Otherwise a stranger's issue with the marker would be edited."""
    issue(results(tmp_path / "r"))
    (listed,) = gh.called("issue", "list")
    assert listed["argv"][2:6] == ["--label", LABEL, "--state", "open"]


@pytest.mark.parametrize("code", [0, 2, 3, 130])
def test_without_a_regression_nothing_is_called(gh, tmp_path, code):
    assert issue(results(tmp_path / "r", code=code)) == 0
    assert gh.calls == []


def test_the_issue_links_to_the_run(gh, tmp_path, monkeypatch):
    for name, value in (("SERVER_URL", "https://g"), ("REPOSITORY", "o/r"), ("RUN_ID", "12")):
        monkeypatch.setenv(f"GITHUB_{name}", value)
    issue(results(tmp_path / "r"))
    assert "(https://g/o/r/actions/runs/12)" in gh.called("issue", "create")[0]["stdin"]


def test_a_dry_run_prints_the_commands_and_runs_none(gh, tmp_path, capsys):
    assert issue(results(tmp_path / "r"), "--dry-run") == 0
    assert gh.calls == []
    out = capsys.readouterr().out
    assert f"$ gh issue create --title 'peft 0.14.0: regressed' --label {LABEL}" in out
    assert "## peft 0.14.0: regressed\n\ntext" in out


def test_the_issue_needs_no_package(tmp_path):
    """The job that may write issues installs nothing."""
    results(tmp_path / "r")
    for tool, *words in (("prepare", "r", "drafts"), ("publish", "drafts", "--dry-run")):
        command = (sys.executable, "-S", "-E", str(TOOL.with_stem(tool)), "issue", *words)
        ended = subprocess.run(command, capture_output=True, check=False, text=True, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr


# --- Errors ---------------------------------------------------------------------------------------


def test_a_failing_gh_gives_a_message_and_exit_2(gh, tmp_path, capsys):
    gh.fail()
    assert issue(results(tmp_path / "r")) == 2
    err = capsys.readouterr().err
    assert "`gh issue list" in err
    assert "failed (exit code 1): HTTP 403: Resource not accessible by integration" in err
    assert "gh auth status" in err


def test_a_missing_gh_gives_a_message_and_exit_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert issue(results(tmp_path / "r")) == 2
    assert "`gh` cannot be run (No such file or directory): install it" in capsys.readouterr().err


def test_an_unexpected_answer_of_gh_gives_a_message_and_exit_2(gh, tmp_path, capsys):
    gh.answer("issue-list", "no issues match your search")
    assert issue(results(tmp_path / "r")) == 2
    assert "did not return a list of issues: 'no issues match" in capsys.readouterr().err
    assert not gh.called("issue", "create")


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({"exit-code": None}, "cannot be read (No such file or directory)"),
        ({"exit-code": "red\n"}, "'red' is not an exit code"),
        ({"exit-code": "-1\n"}, "'-1' is not an exit code"),
        ({"requirements.txt": "\n"}, "names no requirement"),
        ({"findings.md": "  \n"}, "is missing or empty, although something regressed"),
        ({"findings.md": None}, "is missing or empty, although something regressed"),
    ],
)
def test_unreadable_results_give_a_message_and_exit_2(gh, tmp_path, capsys, broken, problem):
    folder = results(tmp_path / "r")
    ((name, text),) = broken.items()
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    assert issue(folder) == 2
    assert f"{folder / name}: " in (err := capsys.readouterr().err)
    assert problem in err
    assert gh.calls == []


# --- Bodies that are too long ---------------------------------------------------------------------


def test_a_long_body_is_cut_and_says_so(gh, tmp_path):
    findings = "## headline\n\n" + "line of a table\n" * 10_000
    issue(results(tmp_path / "r", findings=findings))
    body = gh.called("issue", "create")[0]["stdin"]
    assert LONGEST_BODY - 1100 < len(body) <= LONGEST_BODY
    assert body.split("\n")[2] == "## headline"
    assert body.endswith("Cut: GitHub takes 65,536 characters; the run's artifact has all 160,012.")


def test_a_short_body_is_not_cut():
    assert fit("x" * 1000, longest=1000) == "x" * 1000


@pytest.mark.parametrize("rest", ["é" * 5000, "a\n" * 2500, "```python\n" + "code\n" * 1000])
def test_a_cut_keeps_the_headline_and_closes_code(rest):
    cut = fit(f"# headline\n\n{rest}", longest=1000)
    assert len(cut) <= 1000
    assert cut.startswith("# headline\n")
    assert cut.count("```") % 2 == 0
    assert "\n\nCut: GitHub takes" in cut


def test_a_headline_that_is_too_long_is_cut():
    assert fit("x" * 2000, longest=1000).startswith("x" * 800)


def test_a_title_is_one_line_of_256_characters(gh, tmp_path):
    issue(results(tmp_path / "r", findings=f"# a\tb{'c' * 300}\nrest"))
    title = gh.called("issue", "create")[0]["argv"][3]
    assert title == "a b" + "c" * 253


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


def baseline(folder, *options):
    """Prepare the baseline as one job does, and offer it as another one does."""
    return prepared(folder) or publish.main(["baseline", str(drafts_of(folder)), *options])


def prepared(folder):
    return prepare.main(["baseline", str(folder), str(drafts_of(folder))])


def drafts_of(folder):
    return folder.parent / "drafts"


def test_a_release_in_which_nothing_regressed_is_offered(gh, repository, tmp_path, capsys):
    gh.answer("pr-list", [])
    gh.answer("pr-create", "https://github.com/o/r/pull/8")
    assert baseline(release(tmp_path)) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.endswith("offered https://github.com/o/r/pull/8\n")
    branch = "baseline/peft-0.19.0"
    assert git(repository, "ls-remote", "--heads", "origin").endswith(f"refs/heads/{branch}")
    changed = git(repository, "diff", "--name-status", "main", branch).split()
    assert changed[0] == "A"
    assert changed[1].endswith("0002_peft-0.19.0.json")
    current = changed[1].replace("0002_peft-0.19.0.json", "current.txt")
    assert changed[2:] == ["M", current, "M", "baselines/newest"]
    entry = json.loads(git(repository, "show", f"{branch}:{changed[1]}"))
    assert entry["peft_regress"]["accepted"]["role"] == "baseline"
    reason = "peft 0.19.0: nothing regressed against 0001_peft-0.18.1"
    assert entry["peft_regress"]["accepted"]["reason"] == reason
    (created,) = gh.called("pr", "create")
    assert created["argv"][2:6] == ["--head", branch, "--title", "Baseline of peft 0.19.0"]
    assert "## nothing regressed" in created["stdin"]
    # Only the branch is left in the clone.
    assert git(repository, "branch", "--show-current") == "main"
    assert git(repository, "status", "--porcelain") == ""
    assert len(baseline_files(repository / "baselines")) == 1


def test_a_baseline_is_offered_from_a_detached_checkout(gh, repository, tmp_path, capsys):
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "--quiet", "--detach")
    assert baseline(release(tmp_path)) == 0, capsys.readouterr().err
    assert git(repository, "rev-parse", "HEAD") == commit
    assert git(repository, "branch", "--show-current") == ""


@pytest.mark.parametrize("state", ["OPEN", "CLOSED", "MERGED"])
def test_a_pull_request_is_never_opened_twice(gh, repository, tmp_path, capsys, state):
    gh.answer("pr-list", [{"number": 8, "state": state}])
    assert baseline(release(tmp_path)) == 0
    assert "already" in capsys.readouterr().out
    (listed,) = gh.called("pr", "list")
    assert listed["argv"][2:6] == ["--head", "baseline/peft-0.19.0", "--state", "all"]
    assert git(repository, "branch", "--list") == "* main"
    assert not gh.called("pr", "create")


def test_a_dry_run_of_a_baseline_changes_nothing(gh, repository, tmp_path, capsys):
    assert baseline(release(tmp_path), "--dry-run") == 0
    out = capsys.readouterr().out
    assert "$ git switch --create baseline/peft-0.19.0" in out
    assert "$ gh pr create" in out
    assert gh.calls == []
    assert git(repository, "branch", "--list") == "* main"
    assert git(repository, "status", "--porcelain") == ""


@pytest.mark.parametrize("code", [1, 2, 3])
def test_a_run_with_another_exit_code_is_not_offered(gh, repository, tmp_path, code):
    assert baseline(release(tmp_path, code=code)) == 0
    assert gh.calls == []


@pytest.mark.parametrize("version", ["0.18.1", "0.14.0", "0.20.0.dev0", "0.19.0rc1"])
def test_only_a_newer_release_is_offered(gh, repository, tmp_path, version):
    assert baseline(release(tmp_path, version)) == 0
    assert gh.calls == []


def test_a_partial_run_is_not_offered(gh, repository, tmp_path, capsys):
    from peft_regress.runs.schema import Selection

    selection = Selection(complete=False, narrowed_by=["-k lora"], not_selected=[])
    assert baseline(release(tmp_path, selection=selection)) == 0
    assert "partial" in capsys.readouterr().out
    assert gh.calls == []


OLD = {"peft": "0.18.1", "torch": "2.13.0+cpu", "galore-torch": "1.0"}


@pytest.mark.parametrize(
    ("lines", "versions", "newer"),
    [
        (["peft"], {"peft": "0.19.0"}, {"peft": "0.19.0"}),
        (["peft==0.19.0", "Galore_Torch"], {"peft": "0.19.0"}, {"peft": "0.19.0"}),
        # The local part names a build of the same release.
        (["torch==2.13.0"], {"torch": "2.13.0"}, {}),
        (["torch"], {"torch": "2.14.0+cpu"}, {"torch": "2.14.0"}),
        (["peft @ git+https://g/peft@main"], {"peft": "0.19.0"}, {}),
        (["."], {"peft": "0.19.0"}, {}),
        (["peft", "torch"], {"peft": "0.19.0", "torch": "2.12.0"}, {}),
        (["peft", "unheard-of"], {"peft": "0.19.0"}, {}),
    ],
)
def test_a_release_is_newer_if_no_required_package_is_older(lines, versions, newer):
    assert newer_releases(tuple(lines), {**OLD, **versions}, OLD) == newer


def test_uncommitted_changes_to_the_baselines_are_refused(gh, repository, tmp_path, capsys):
    (repository / "baselines" / "notes.txt").write_text("mine")
    assert baseline(release(tmp_path)) == 2
    err = capsys.readouterr().err
    assert "baselines has uncommitted changes" in err
    assert "notes.txt" in err
    assert git(repository, "branch", "--list") == "* main"


def test_a_failing_push_gives_a_message_and_exit_2(gh, repository, tmp_path, capsys):
    git(repository, "remote", "set-url", "origin", str(tmp_path / "nowhere"))
    assert baseline(release(tmp_path)) == 2
    err = capsys.readouterr().err
    assert "push --force origin baseline/peft-0.19.0` failed (exit code 128): fatal:" in err
    assert git(repository, "branch", "--show-current") == "main"
    assert not gh.called("pr", "create")


@pytest.mark.parametrize("text", [None, "{", "[]", '{"peft_regress": {}}'])
def test_an_unreadable_run_file_gives_a_message_and_exit_2(gh, repository, tmp_path, capsys, text):
    folder = release(tmp_path)
    path = folder / "run.json"
    path.unlink() if text is None else path.write_text(text)
    assert baseline(folder) == 2
    assert "is not a run file" in capsys.readouterr().err


def test_accept_refuses_an_altered_run(gh, repository, tmp_path, capsys):
    folder = release(tmp_path)
    path = folder / "run.json"
    path.write_text(path.read_text().replace("3638000000", "3638000001"))
    assert baseline(folder) == 2
    assert "digest" in capsys.readouterr().err
    assert git(repository, "branch", "--show-current") == "main"
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


def forged(path, change):
    """Change a run file, and give it the digest of its content, as whoever forges one would."""
    document = json.loads(path.read_text())
    ours = document["peft_regress"]
    change(ours)
    ours.pop("content_digest")
    ours["content_digest"] = canonical_digest(ours)
    path.write_text(json.dumps(document))


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
        with_method("../../../home/.config/git"),
        with_method("/etc/x"),
        lambda ours: ours["environment"].update(peft="0.19.0\nmain"),
        lambda ours: ours["environment"].update({"../../x": "1"}),
        lambda ours: ours["machine"].update(digest="../../x"),
    ],
    ids=["parent", "home", "absolute", "branch", "package", "machine"],
)
def test_a_forged_run_is_refused_before_anything_is_written(gh, outside, tmp_path, capsys, change):
    folder = release(tmp_path)
    forged(folder / "run.json", change)
    assert baseline(folder) == 2
    assert "is not a run file" in capsys.readouterr().err
    assert gh.calls == []


def kept(folder):
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


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "name"])
def test_an_adapter_that_is_no_plain_file_is_refused(gh, outside, tmp_path, capsys, kind):
    """A link could publish a secret of the machine."""
    adapter = kept(release(tmp_path))
    if kind == "link":
        (adapter / "secret").symlink_to(outside / "secret")
    elif kind == "folder":
        (adapter / "secrets").symlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(adapter / "pipe")
    else:
        (adapter / "a b").write_text("")
    assert baseline(tmp_path / "r") == 2
    assert "published" in capsys.readouterr().err
    assert gh.calls == []


def test_an_adapter_beside_the_run_is_offered_with_it(gh, repository, tmp_path, capsys):
    gh.answer("pr-list", [])
    kept(release(tmp_path))
    assert baseline(tmp_path / "r") == 0, capsys.readouterr().err
    changed = git(repository, "diff", "--name-only", "main", "baseline/peft-0.19.0").split()
    assert any(name.startswith("baselines/adapters/") for name in changed)
    assert all(name.startswith("baselines/") for name in changed)


def drafted(tmp_path):
    """Return the drafts of a release, for a hostile job to change."""
    assert prepared(release(tmp_path)) == 0
    return drafts_of(tmp_path / "r")


@pytest.mark.parametrize(
    ("name", "links_to"),
    [
        ("../../benchmarks/torch/__init__.py", None),
        ("adapters/lora/conftest.py", None),
        ("sources/resnet18.safetensors", None),
        ("machine/.gitattributes", None),
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
    drafts = drafted(tmp_path)
    path = drafts / "files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if links_to is None:
        path.write_text("{}")
    else:
        path.symlink_to(tmp_path / "home" / links_to)
    code = publish.main(["baseline", str(drafts)])
    if name.startswith("../") or ".git" in name:
        # Not below the folder, or hidden: it is not seen.
        assert all("benchmarks" not in str(call) and ".git" not in str(call) for call in gh.calls)
    else:
        assert code == 2
        assert capsys.readouterr().err.startswith("error: ")
        assert gh.calls == []


def test_a_stored_entry_is_never_replaced(gh, outside, tmp_path, repository, capsys):
    drafts = drafted(tmp_path)
    (entry,) = baseline_files(repository / "baselines")
    target = drafts / "files" / entry.relative_to(repository / "baselines")
    target.write_text("{}")
    gh.answer("pr-list", [])
    assert publish.main(["baseline", str(drafts)]) == 2
    assert "a stored file is never replaced" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"branch": "main"},
        {"branch": "baseline/../main"},
        {"branch": "baseline/x.lock"},
        {"branch": "baseline/x:main"},
        {"branch": "--delete"},
        {"releases": "a\n::error::b"},
        {"releases": 1},
        {"body": "\x1b[31m"},
        {"body": "x" * (LONGEST_BODY + 1)},
        {"more": "x"},
    ],
    ids=str,
)
def test_a_draft_of_another_form_is_refused(gh, outside, tmp_path, capsys, change):
    drafts = drafted(tmp_path)
    file = drafts / "baseline.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert publish.main(["baseline", str(drafts)]) == 2
    assert f"{file}: " in capsys.readouterr().err
    assert gh.calls == []


def test_code_in_an_issue_can_be_copied_and_nothing_else_in_it_is_live(gh, tmp_path):
    code = "```python\n@torch.no_grad()\ndef f(): ...\n```"
    sly = "<details>\n```\n@octocat\n```\n\n~~~\n@octocat\n~~~\n> ```\n\n   ```\n@octocat\n"
    assert issue(results(tmp_path / "r", findings=f"## head\n\n{code}\n\n{sly}")) == 0
    body = gh.called("issue", "create")[0]["stdin"]
    assert code in body
    assert "@octocat" not in body
