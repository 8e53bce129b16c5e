"""Every script of every workflow and of the action, run as GitHub's runner runs it.

Each is run once as it passes, and once more for each command in it that fails. A new step without a
row here fails `test_every_script_has_a_row`. What happens inside a command is tested elsewhere.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import publish
import pytest
from builders import VALUES, make_record, write_entry, write_run, write_shards
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
    """How one script is run, and what it does."""

    calls: list[str]
    """The beginning of each command, in order; `TEMP` and `ROOT` stand for these folders."""
    context: dict[str, str] = field(default_factory=dict)
    given: Callable[[StepSandbox], None] = nothing
    """Makes what earlier steps leave."""
    answers: tuple[Answer, ...] = ()
    leaves: Callable[[StepSandbox, object], bool] = lambda _sandbox, _ended: True
    """Whether the script left what it should."""
    may_fail: tuple[str, ...] = ()
    """Commands whose failure is no failure of the script."""
    ends_later: bool = False
    """Whether other commands follow one that failed, before the script fails by it."""


def with_shards(sandbox):
    write_entry(sandbox.workspace / "proposed" / "baselines", 1, *map(make_record, IDS))
    write_shards(sandbox.workspace / "shards")


def with_run(sandbox):
    write_entry(sandbox.workspace / "proposed" / "baselines", 1, make_record())
    write_run(sandbox.workspace / "run.json")


def with_downloaded_run(sandbox):
    """The run of main, its site and its storage."""
    sandbox.check_out("tools")
    write_entry(sandbox.workspace / "baselines", 1, make_record())
    (sandbox.workspace / "site").mkdir()
    (sandbox.temp / "run").mkdir()
    write_run(sandbox.temp / "run" / "run.json")


def with_results(sandbox):
    """What the action kept of a candidate that regressed."""
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


def wrote(*names):
    """Return whether these files of the workspace are there and not empty."""
    return lambda sandbox, _: all((sandbox.workspace / name).stat().st_size for name in names)


HEAD = {"repo": {"full_name": "fork/r"}, "sha": "a" * 40}
MEASURE = (
    "python -m tox run -e bench -- --regress-shard=3/4 --regress-save=runs/shard-3.json "
    "--regress-strict --regress-summary=TEMP/summary"
)
ROWS = {
    "action/gate/Install the gate": Row(
        context={
            "inputs.extra-index-url": "https://example.org/cpu",
            "inputs.install": "",
            "inputs.baselines": "",
        },
        calls=[
            "python -m venv TEMP/peft-regress",
            "python ROOT/tools/ci/constraints.py --project . ROOT/baselines",
            "python -m pip install --constraint TEMP/constraints.txt ROOT",
        ],
    ),
    "action/gate/Gate the candidate": Row(
        context={
            **{
                f"inputs.{name}": str(one.get("default", ""))
                for name, one in read(ACTION)["inputs"].items()
            },
            "inputs.requirements": "peft==0.14.0",
        },
        answers=(Answer(start="peft-regress upgrade", output='{"counts": {"unchanged": 1}}'),),
        calls=[
            "peft-regress upgrade --baselines ROOT/.github/actions/gate/../../../baselines --yes",
            "python -c import json",
        ],
        leaves=lambda _, ended: (
            ended.outputs["exit-code"] == "0" and ended.outputs["moved"] == "false"
        ),
        may_fail=("python -c",),
        ends_later=True,
    ),
    "bench/shard/Measure": Row(context={"matrix.shard": "3"}, calls=[MEASURE]),
    "bench/verdict/Judge the shards as one run": Row(
        given=with_shards,
        calls=[
            "peft-regress compare proposed/baselines shards --stored-only --strict --save run.json"
        ],
        leaves=lambda sandbox, ended: (
            ended.outputs == {"saved": "true"} and "no regression" in ended.summary
        ),
    ),
    "bench/verdict/Make the page": Row(
        given=with_run,
        calls=["peft-regress report run.json --baselines proposed/baselines --html"],
        leaves=wrote("peft-regress.html"),
    ),
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
        answers=(
            Answer(
                start="gh api --method GET repos/{owner}/{repo}/pulls -f state=open -f head=fork:",
                output=json.dumps([{"number": 5, "head": HEAD}]),
            ),
        ),
        calls=[
            "python tools/ci/publish.py comment TEMP/verdict",
            "gh api --method GET repos/{owner}/{repo}/pulls",
            "gh pr comment 5 --edit-last --create-if-none",
        ],
    ),
    "pages/build/Add the page": Row(
        given=with_downloaded_run,
        calls=["peft-regress report TEMP/run/run.json --html site/main/index.html"],
        leaves=wrote("site/main/index.html"),
    ),
    "release/build/Check the tag": Row(
        given=with_release,
        context={"github.ref_name": f"v{VERSION}"},
        calls=[f"python tools/ci/release_check.py v{VERSION}"],
    ),
    "upgrade/issue/Open or update the issue": Row(
        given=with_results,
        context={"github.token": "t", "matrix.candidate": "main"},
        answers=(
            Answer(start="gh issue list", output="[]"),
            Answer(start="gh issue create", output="https://g/7"),
        ),
        calls=[
            "python tools/ci/publish.py issue TEMP/results --candidate main",
            "gh issue list",
            "gh label create upgrade-regression",
            "gh issue create --label upgrade-regression --title peft 0.14.0: regressed",
        ],
    ),
}


def test_every_script_has_a_row():
    """But those of one command, and those that run no tool of this project with a verdict."""
    assert ROWS.keys() <= SCRIPTS.keys()
    lines = {name for name in SCRIPTS.keys() - ROWS.keys() if "\n" in SCRIPTS[name].text}
    assert {name.rpartition("/")[2] for name in lines} == {
        *("Link the page", "Build", "Try the wheel in a clean environment")
    }


def test_every_script_fails_with_any_command_of_a_pipe():
    assert {script.shell for script in SCRIPTS.values()} == {"bash"}


def filled(text, sandbox):
    return text.replace("TEMP", str(sandbox.temp)).replace("ROOT", str(ROOT))


def run_row(sandbox, name, *more):
    row = ROWS[name]
    context = {key: filled(value, sandbox) for key, value in row.context.items()}
    return sandbox.run(SCRIPTS[name], context=context, answers=(*more, *row.answers))


@pytest.mark.parametrize("name", ROWS)
def test_a_script_does_its_work_and_fails_where_a_command_fails(name, tmp_path):
    row = ROWS[name]
    (tmp_path / "passing").mkdir()
    sandbox = StepSandbox(tmp_path / "passing")
    row.given(sandbox)
    ended = run_row(sandbox, name)
    assert ended.code == 0, ended.errors
    assert len(ended.lines) == len(row.calls), ended.lines
    for line, start in zip(ended.lines, row.calls, strict=True):
        assert line.startswith(filled(start, sandbox))
    assert row.leaves(sandbox, ended)
    for number, start in enumerate(row.calls):
        folder = tmp_path / f"failing-{number}"
        folder.mkdir()
        sandbox = StepSandbox(folder)
        row.given(sandbox)
        failing = run_row(sandbox, name, Answer(start=filled(start, sandbox), code=7))
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
        ({}, 0, "no regression (100 unchanged)"),
        ({"metrics": {**VALUES, "forward_flops": 10**10}}, 1, "REGRESSED (100 regressed)"),
        ({"metrics": {**VALUES, "forward_flops": 1}}, 1, "not accepted"),
        ({"lost": ["shift/lora-r4/resnet18"]}, 3, "1 missing"),
    ],
)
def test_a_verdict_of_any_colour_has_its_run_its_comment_and_its_page(sandbox, change, code, words):
    ended, comment = judged(sandbox, **change)
    assert (ended.code, ended.outputs) == (code, {"saved": "true"}), ended.errors
    assert words in comment
    assert len(read_run_file(sandbox.workspace / "run.json").run.cases) == 100 - len(
        change.get("lost", ())
    )
    assert publish.main(["comment", str(sandbox.workspace / "verdict"), "--dry-run"]) == 0
    assert sandbox.run(SCRIPTS["bench/verdict/Make the page"]).code == 0
    assert "<html" in (sandbox.workspace / "peft-regress.html").read_text()


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
