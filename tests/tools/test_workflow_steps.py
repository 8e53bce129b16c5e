"""Every script of every workflow and of the action, run as GitHub's runner runs it.

Each is run once as it passes, and once more for each command in it that fails. A new step without a
row here fails `test_every_script_has_a_row`. What happens inside a command is tested elsewhere.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import publish
import pytest
from builders import VALUES, make_record, make_run, write_entry, write_run, write_shards
from step_sandbox import Answer, StepSandbox
from workflow_files import ACTION, ROOT, Script, read, scripts

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.runs.run_file import read_run_file

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPTS = scripts()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
IDS = [case.id for case in matrix_cases("default")]


def nothing(_):
    pass


@dataclass(frozen=True, kw_only=True)
class Row:
    context: dict[str, str] = field(default_factory=dict)
    given: Callable[[StepSandbox], None] = nothing
    """Makes what earlier steps leave."""
    answers: tuple[Answer, ...] = ()
    writes: tuple[str, ...] = ()
    """Files of the workspace that are there afterwards and not empty."""
    says: str = ""
    """A part of the summary."""
    may_fail: tuple[str, ...] = ()
    """Commands whose failure is no failure of the script."""
    ends_later: bool = False
    """Whether other commands follow one that failed, before the script fails by it."""


def with_shards(sandbox):
    write_entry(sandbox.workspace / "proposed" / "baselines", 1, *map(make_record, IDS))
    write_shards(sandbox.workspace / "shards")


def with_run(sandbox):
    write_entry(sandbox.workspace / "proposed" / "baselines", 1, make_record())
    worse = make_record(metrics={**VALUES, "forward_flops": 10**10})
    write_run(sandbox.workspace / "run.json", make_run(worse))


def with_downloaded_run(sandbox):
    """The run of main, its site and its storage."""
    sandbox.check_out("tools")
    write_entry(sandbox.workspace / "baselines", 1, make_record())
    (sandbox.workspace / "site").mkdir()
    (sandbox.temp / "run").mkdir()
    write_run(sandbox.temp / "run" / "run.json")


def with_results(sandbox):
    sandbox.check_out("tools", "baselines")
    folder = sandbox.temp / "results"
    folder.mkdir()
    (folder / "exit-code").write_text("1\n")
    (folder / "findings.md").write_text("## peft 0.14.0: regressed\n\ntext")


def with_verdict(sandbox):
    sandbox.check_out("tools")
    (sandbox.temp / "verdict").mkdir()
    (sandbox.temp / "verdict" / "comment.md").write_text("<!-- peft-regress -->\nREGRESSED @me\n")


def with_release(sandbox):
    """A checkout of the newest release, with the owner that it will have."""
    sandbox.check_out("tools")
    for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff", "README.md"):
        text = (ROOT / name).read_text().replace("OWNER", "edge")
        if name == "pyproject.toml" and "[project.urls]" not in text:
            text = text.replace("[project.scripts]", '[project.urls]\na = "b"\n\n[project.scripts]')
        (sandbox.workspace / name).write_text(text)


HEAD = {"repo": {"full_name": "fork/r"}, "sha": "a" * 40}
PULLS = "gh api --method GET repos/{owner}/{repo}/pulls -f state=open -f head=fork:"
INPUTS = {
    f"inputs.{name}": str(one.get("default", "")) for name, one in read(ACTION)["inputs"].items()
}
ROWS = {
    "action/gate/Install the gate": Row(
        context={**INPUTS, "inputs.extra-index-url": "https://example.org/cpu"}
    ),
    "action/gate/Gate the candidate": Row(
        context={**INPUTS, "inputs.requirements": "peft==0.14.0"},
        answers=(Answer(start="peft-regress upgrade", output='{"counts": {"unchanged": 1}}'),),
        may_fail=("python -c",),
        ends_later=True,
    ),
    "bench/shard/Measure": Row(context={"matrix.shard": "3"}),
    "bench/verdict/Judge the shards as one run": Row(given=with_shards, says="no regression"),
    "bench/verdict/Make the page": Row(given=with_run, writes=("peft-regress.html",)),
    "comment/comment/Open or update the comment": Row(
        given=with_verdict,
        context={
            "github.token": "t",
            "github.repository": "o/r",
            "github.event.workflow_run.head_repository.full_name": "fork/r",
            "github.event.workflow_run.head_branch": "patch",
            "github.event.workflow_run.head_sha": HEAD["sha"],
            "github.event.workflow_run.html_url": "https://g/12",
        },
        answers=(Answer(start=PULLS, output=json.dumps([{"number": 5, "head": HEAD}])),),
    ),
    "pages/build/Add the page": Row(given=with_downloaded_run, writes=("site/main/index.html",)),
    "release/build/Check the tag": Row(
        given=with_release, context={"github.ref_name": f"v{VERSION}"}
    ),
    "upgrade/issue/Open or update the issue": Row(
        given=with_results,
        context={"github.token": "t", "matrix.candidate": "main"},
        answers=(
            Answer(start="gh issue list", output="[]"),
            Answer(start="gh issue create", output="https://g/7"),
        ),
    ),
}


def test_every_script_has_a_row():
    """But those of one command, and those that run no tool of this project with a verdict."""
    assert ROWS.keys() <= SCRIPTS.keys()
    lines = {name for name in SCRIPTS.keys() - ROWS.keys() if "\n" in SCRIPTS[name].text}
    assert {name.rpartition("/")[2] for name in lines} == {
        *("Link the page", "Build", "Try the wheel in a clean environment")
    }
    # Any command of a pipe makes it fail.
    assert {script.shell for script in SCRIPTS.values()} == {"bash"}


def run_row(folder, name, *more):
    row = ROWS[name]
    folder.mkdir()
    sandbox = StepSandbox(folder)
    row.given(sandbox)
    return sandbox, sandbox.run(SCRIPTS[name], context=row.context, answers=(*more, *row.answers))


@pytest.mark.parametrize("name", ROWS)
def test_a_script_does_its_work_and_fails_where_a_command_fails(name, tmp_path, snapshot):
    row = ROWS[name]
    sandbox, ended = run_row(tmp_path / "passing", name)
    assert ended.code == 0, ended.errors

    def shown(text):
        text = text.replace(str(sandbox.temp), "TEMP").replace(str(ROOT), "ROOT")
        return re.sub(r"/results\.\w+", "/results.MADE", text)

    outputs = {key: shown(text) for key, text in ended.outputs.items()}
    # The version grows, and the texts of scripts are long.
    lines = [shown(line).partition("\n")[0].replace(VERSION, "VERSION") for line in ended.lines]
    assert {"calls": lines, "outputs": outputs} == snapshot
    assert row.says in ended.summary
    assert all((sandbox.workspace / file).stat().st_size for file in row.writes)
    for number, line in enumerate(ended.lines):
        here = tmp_path / f"failing-{number}"
        start = line.replace(str(sandbox.temp), str(here / "temp")).partition("/results.")[0]
        _, failing = run_row(here, name, Answer(start=start, code=7))
        assert (failing.code == 0) is start.startswith(row.may_fail), start
        if failing.code and not row.ends_later:
            assert len(failing.lines) == number + 1, "a later command ran after the failure"


@pytest.fixture
def sandbox(tmp_path):
    return StepSandbox(tmp_path)


def judged(sandbox, *, lost=(), metrics=None):
    """Judge shards of the whole matrix; return how it ended and the text of the comment."""
    write_entry(sandbox.workspace / "proposed" / "baselines", 1, *map(make_record, IDS))
    more = {} if metrics is None else {"metrics": metrics}
    write_shards(sandbox.workspace / "shards", lost=lost, **more)
    ended = sandbox.run(SCRIPTS["bench/verdict/Judge the shards as one run"])
    comment = (sandbox.workspace / "verdict" / "comment.md").read_text()
    assert ended.summary == comment
    return ended, comment


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({}, 0, "no regression (102 unchanged)"),
        ({"metrics": {**VALUES, "forward_flops": 10**10}}, 1, "REGRESSED (102 regressed)"),
        ({"metrics": {**VALUES, "forward_flops": 1}}, 1, "not accepted"),
        ({"lost": ["shift/lora-r4/resnet18"]}, 3, "1 missing"),
    ],
)
def test_a_verdict_of_any_colour_has_its_run_and_its_comment(sandbox, change, code, words):
    ended, comment = judged(sandbox, **change)
    assert (ended.code, ended.outputs) == (code, {"saved": "true"}), ended.errors
    assert words in comment
    assert len(read_run_file(sandbox.workspace / "run.json").run.cases) == 102 - len(
        change.get("lost", ())
    )
    assert publish.main(["comment", str(sandbox.workspace / "verdict"), "--dry-run"]) == 0


def test_no_shard_fails_the_step_with_the_reason_and_there_is_no_page_to_make(sandbox):
    write_entry(sandbox.workspace / "proposed" / "baselines", 1, make_record())
    ended = sandbox.run(SCRIPTS["bench/verdict/Judge the shards as one run"])
    assert (ended.code, ended.outputs) == (2, {})
    assert "shards" in ended.errors
    assert (sandbox.workspace / "verdict" / "comment.md").read_text() == ""


@pytest.mark.parametrize("tag", ["v0.0.9", "main", f"v{VERSION}; touch hacked", "$(touch hacked)"])
def test_no_other_tag_is_released_and_none_reaches_the_shell(sandbox, tag):
    with_release(sandbox)
    ended = sandbox.run(SCRIPTS["release/build/Check the tag"], context={"github.ref_name": tag})
    assert ended.code == 1
    assert not (sandbox.workspace / "hacked").exists()


def local_run(sandbox, *failing):
    script = Script(
        name=".ci/run",
        text=(ROOT / ".ci" / "run").read_text(),
        shell="bash",
        variables={"PEFT_REGRESS_BROWSER": "chromium"},
    )
    return sandbox.run(script, answers=[Answer(start=start, code=1) for start in failing])


def test_the_local_run_names_every_step_that_failed_after_all_have_run(sandbox):
    passing = local_run(sandbox)
    assert (passing.code, passing.errors) == (0, "")
    assert len(passing.calls) == 12
    step = "python -m tox exec -e py --skip-pkg-install --"
    failing = local_run(sandbox, "python -m tox run -e docs", f"{step} mypy", f"{step} peft-")
    # Two of them are made beside the others, at any time.
    assert sorted(failing.lines) == sorted(passing.lines)
    assert failing.code == 1
    assert failing.output.endswith("failed: docs types fuzz verdict storage\n")
