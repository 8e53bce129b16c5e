"""Workflows and the action: what the linters of `tox -e lint` do not see, and every script, run."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import constraints
import prepare
import publish
import pytest
import yaml
from builders import VALUES, make_record, make_run, write_entry, write_run, write_shards
from packaging.requirements import Requirement

from peft_regress.catalogue.matrix import matrix_cases, shard_of
from peft_regress.cli.main import cli
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Selection

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
ACTION = ROOT / ".github" / "actions" / "gate" / "action.yml"
PAGE = (ROOT / "docs" / "ci.md").read_text()


def read(path):
    # YAML 1.1 reads the key `on` as true.
    document = yaml.safe_load(path.read_text())
    return {("on" if key is True else key): value for key, value in document.items()}


def workflow(name):
    return read(ROOT / ".github" / "workflows" / f"{name}.yml")


def jobs():
    """Return {(workflow, job): job}."""
    return {
        (path.stem, name): job for path in WORKFLOWS for name, job in read(path)["jobs"].items()
    }


def steps():
    """Return every step of every workflow and of the action."""
    inside_jobs = [step for job in jobs().values() for step in job.get("steps", [])]
    return [*inside_jobs, *read(ACTION)["runs"]["steps"]]


def writes(job):
    return {name for name, access in job["permissions"].items() if access == "write"}


# --- Which code runs, and with which token --------------------------------------------------------


def test_only_the_three_publishing_jobs_may_write():
    assert {name: writes(job) for name, job in jobs().items() if writes(job)} == {
        ("comment", "comment"): {"pull-requests"},
        ("upgrade", "issue"): {"issues"},
        ("upgrade", "baseline"): {"contents", "pull-requests"},
    }


def test_a_fork_s_code_never_runs_with_a_token_that_writes():
    for path in WORKFLOWS:
        document = read(path)
        events = set(document["on"])
        assert not events & {"pull_request_target", "issue_comment"}
        assert ("workflow_run" in events) is (path.stem == "comment")
        if any(writes(job) for job in document["jobs"].values()):
            assert events in ({"schedule", "workflow_dispatch"}, {"workflow_run"})


def test_no_checkout_stores_its_token():
    for step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_an_action_has_the_same_commit_everywhere():
    texts = [path.read_text() for path in (*WORKFLOWS, ACTION)]
    used = {line for text in [*texts, PAGE] for line in re.findall(r"uses: (actions/.*)", text)}
    assert len(used) == len({line.partition("@")[0] for line in used}) == 4


def test_the_action_uses_no_path_of_its_own_repository():
    """In a composite action `$/` is not this repository."""
    assert not [step for step in steps()[-len(read(ACTION)["runs"]["steps"]) :]
                if step.get("uses", "").startswith(("$/", "./"))]  # fmt: skip


def actions(job):
    """Return the names of the actions that a job uses, in order."""
    return [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]


def scripts(job):
    return [step["run"] for step in job["steps"] if "run" in step]


WRITERS = {
    ("comment", "comment"): 'comment "$RUNNER_TEMP/drafts" --run "$RUN_ID"',
    ("upgrade", "issue"): 'issue "$RUNNER_TEMP/drafts"',
    ("upgrade", "baseline"): 'baseline "$RUNNER_TEMP/drafts"',
}
"""What each job with a token that writes runs of tools/ci/publish.py: it runs nothing else."""


@pytest.mark.parametrize("name", WRITERS, ids="-".join)
def test_a_job_that_writes_takes_only_the_drafts_of_a_job_that_cannot(name):
    job = jobs()[name]
    readers = workflow(name[0])["jobs"]["read"]
    assert job["needs"] == "read"
    assert not writes(readers)
    # No package is installed, and nothing of a run is downloaded.
    assert actions(job) == [
        "actions/checkout",
        "actions/setup-python",
        "actions/download-artifact",
    ]
    assert scripts(job) == [f"python tools/ci/publish.py {WRITERS[name]}"]
    download = next(step for step in job["steps"] if "download-artifact" in step.get("uses", ""))
    (kept,) = [step for step in readers["steps"] if "upload-artifact" in step.get("uses", "")]
    artifact = kept["with"]["name"].replace("${{ matrix.candidate }}", "release")
    assert download["with"]["name"].replace("${{ matrix.candidate }}", "release") == artifact
    assert download["with"]["path"] == kept["with"]["path"] == "${{ runner.temp }}/drafts"
    # Only the publishing step gets the token.
    with_token = [step for step in job["steps"] if "GH_TOKEN" in step.get("env", {})]
    assert [step["run"] for step in with_token] == scripts(job)
    assert "env" not in job


@pytest.mark.parametrize("name", ["comment", "upgrade"])
def test_the_files_of_a_run_are_read_without_a_token_outside_the_checkout(name):
    job = workflow(name)["jobs"]["read"]
    checkout = job["steps"][0]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"] == {"persist-credentials": False}  # and so the default branch
    download = next(step for step in job["steps"] if "download-artifact" in step.get("uses", ""))
    assert download["with"]["path"].startswith("${{ runner.temp }}/")
    for step in job["steps"]:
        assert "token" not in str(step.get("env", "")).lower()
    install = [
        "python tools/ci/constraints.py baselines > constraints.txt",
        "python -m pip install --constraint constraints.txt .",
    ]
    prepare = 'python tools/ci/prepare.py {} "$RUNNER_TEMP/{}" "$RUNNER_TEMP/drafts"'
    issue, baseline = (prepare.format(what, "results") for what in ("issue", "baseline"))
    texts = [prepare.format("comment", "verdict")]
    assert scripts(job) == (texts if name == "comment" else [issue, *install, baseline])


def test_the_commenting_workflow_knows_the_run_only_by_its_id():
    """No name that a fork chose stands in a script."""
    text = (ROOT / ".github" / "workflows" / "comment.yml").read_text()
    expressions = set(re.findall(r"\$\{\{ (.*?) \}\}", text.partition("jobs:")[2]))
    run = "github.event.workflow_run"
    assert expressions == {f"{run}.id", "github.repository", "github.token", "runner.temp"}


def test_no_script_has_an_expression_in_it():
    """A value that somebody else chose reaches a shell as a variable, never as its text."""
    for step in steps():
        assert "${{" not in step.get("run", "")


def test_the_comment_is_made_from_what_bench_keeps():
    bench = workflow("bench")
    comment = workflow("comment")
    assert comment["on"]["workflow_run"]["workflows"] == [bench["name"]]
    kept = {
        step["with"]["name"]: step
        for step in bench["jobs"]["verdict"]["steps"]
        if "upload-artifact" in step.get("uses", "")
    }
    assert kept.keys() == {"verdict", "proposed-baseline"}
    assert all(step["if"] == "always()" for step in kept.values())
    (download,) = (
        step
        for step in comment["jobs"]["read"]["steps"]
        if "download-artifact" in step.get("uses", "")
    )
    assert download["with"]["name"] == "verdict"
    assert download["continue-on-error"] is True


def test_each_gated_candidate_is_published():
    found = workflow("upgrade")["jobs"]
    gated = [entry["candidate"] for entry in found["gate"]["strategy"]["matrix"]["include"]]
    for name in ("read", "issue"):
        assert found[name]["strategy"]["matrix"]["candidate"] == gated == ["release", "main"]
        assert "github.ref == 'refs/heads/main'" in found[name]["if"]
    for name in ("issue", "baseline"):
        assert "needs.read.result == 'success'" in found[name]["if"]
    assert found["gate"]["with"]["artifact"] == "upgrade-${{ matrix.candidate }}"


def test_the_reusable_workflow_passes_every_input_to_the_action():
    """Unknown inputs are actionlint's to find; forgotten ones, and a wrong path, are not."""
    document = workflow("gate")
    inputs = set(document["on"]["workflow_call"]["inputs"])
    path = ACTION.parent.relative_to(ROOT).as_posix()
    (step,) = [s for s in document["jobs"]["gate"]["steps"] if s["uses"] == f"$/{path}"]
    assert step["with"] == {name: f"${{{{ inputs.{name} }}}}" for name in inputs}


# --- Commands -------------------------------------------------------------------------------------


def check_command(words):
    """Parse a command by its own parser, without running it."""
    name = words[0]
    # With the settings of the group: click keeps the names of `--help` with the command.
    parent = click.Context(cli, **cli.context_settings)
    command = cli.get_command(parent, name)
    return command.make_context(name, list(words[1:]), parent=parent).params


TOOLS = {"prepare": prepare, "publish": publish}


@pytest.mark.parametrize(
    ("tool", "line"),
    re.findall(r"^\$ python tools/ci/(prepare|publish)\.py (.*)$", PAGE, re.MULTILINE),
)
def test_the_tools_know_each_command_of_the_page(tool, line):
    TOOLS[tool].argument_parser().parse_args(shlex.split(line, comments=True))


def test_the_tools_know_the_command_of_each_step():
    lines = [line for step in steps() for line in step.get("run", "").splitlines()]
    found = [re.fullmatch(r"python tools/ci/(prepare|publish)\.py (.*)", line) for line in lines]
    commands = [match.groups() for match in found if match]
    assert len(commands) == 2 * len(WRITERS)
    for tool, line in commands:
        TOOLS[tool].argument_parser().parse_args(shlex.split(line.replace("$RUN_ID", "12")))


def tox():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini")
    return parser


@pytest.mark.parametrize("release", ["014", "015", "018", "019", "020"])
def test_tox_upgrades_to_a_release(release):
    section = tox()["testenv:bench-peft{014,015,018,019,020}"]
    version = re.search(rf"peft{release}: PEFT_VERSION = (\S+)", section["set_env"]).group(1)
    assert version.replace(".", "").startswith(release)
    line = section["commands"].strip().replace("{env:PEFT_VERSION}", version)
    line = line.replace("{toxinidir}", "/t").replace("{envname}", f"bench-peft{release}")
    command, *words = shlex.split(line.replace("{posargs}", "--cases 'shift/*'"))
    assert command == "peft-regress"
    assert words[:2] == ["upgrade", f"peft=={version}"]
    check_command(words)


def test_lint_checks_every_workflow():
    listed = tox()["lint"]["workflows"].split()
    assert listed == [path.relative_to(ROOT).as_posix() for path in WORKFLOWS]


def test_every_environment_that_a_workflow_runs_exists():
    text = "".join(path.read_text() for path in WORKFLOWS)
    (matrix,) = re.findall(r"environment: \[(.*)\]", text)
    named = {*matrix.split(", "), *re.findall(r"tox run -e ([\w-]+)", text)}
    assert named == {"lint", "types", "coverage", "slow", "bench", "bench-extended", "nightly"}
    assert {f"testenv:{name}" for name in named} <= set(tox())


def test_pre_commit_runs_the_commands_of_tox():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    commands = {
        stage: [hook["entry"] for hook in hooks if hook.get("stages", ["pre-commit"]) == [stage]]
        for stage in ("pre-commit", "pre-push")
    }
    lint, types = (tox()[f"testenv:{name}"]["commands"].strip() for name in ("lint", "types"))
    # pre-commit passes the workflows itself.
    lint = lint.replace("{posargs:.}", ".").replace(" {[lint]workflows}", "")
    assert commands["pre-commit"] == lint.splitlines()
    assert commands["pre-push"] == [
        types.replace("{posargs:peft_regress tools}", "peft_regress tools")
    ]


# --- The action's scripts, run --------------------------------------------------------------------

FAKE_COMMAND = """#!{python}
import json, os, pathlib, sys
pathlib.Path(os.environ["FAKE_CALL"]).write_text(json.dumps(sys.argv[1:]))
for option, text in (("--save", "{{}}"), ("--summary", "## finding\\n ::error::x ##[y]")):
    if int(os.environ["FAKE_CODE"]) != 2:
        pathlib.Path(sys.argv[sys.argv.index(option) + 1]).write_text(text)
print('{{"exit_code": 1}}')
sys.exit(int(os.environ["FAKE_CODE"]))
"""
NO_INPUTS = dict.fromkeys(
    (
        "TESTS",
        "BASELINES",
        "REQUIREMENTS",
        "REQUIREMENTS_FILE",
        "CASES",
        "MATRIX",
        "BASE",
        "JOBS",
        "TIME_LIMIT",
        "STRICT",
    ),
    "",
)


def action_step(name):
    (step,) = [s for s in read(ACTION)["runs"]["steps"] if s["name"] == name]
    assert step["shell"] == "bash"
    return step


class Runner:
    """Runs a step of the action as GitHub does, with a command that records its arguments."""

    def __init__(self, folder):
        self.folder = folder
        self.summary, self.output = folder / "summary", folder / "output"
        fake = folder / "peft-regress" / "bin" / "peft-regress"
        fake.parent.mkdir(parents=True)
        fake.write_text(FAKE_COMMAND.format(python=sys.executable))
        fake.chmod(0o755)

    def run(self, *, code=0, **inputs):
        step = action_step("Gate the candidate")
        assert set(step["env"]) == {*NO_INPUTS, "PIP_EXTRA_INDEX_URL"}
        environment = {
            "PATH": "/usr/bin:/bin",
            "RUNNER_TEMP": str(self.folder),
            "GITHUB_ACTION_PATH": "/my checkout/.github/actions/gate",
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "FAKE_CALL": str(self.folder / "call"),
            "FAKE_CODE": str(code),
            **NO_INPUTS,
            **inputs,
        }
        return run_script(step["run"], self.folder, environment)

    @property
    def call(self):
        return json.loads((self.folder / "call").read_text())

    @property
    def results(self):
        (line,) = [x for x in self.output.read_text().splitlines() if x.startswith("results=")]
        return Path(line.partition("=")[2])


def run_script(script, folder, environment):
    path = folder / "script.sh"
    path.write_text(script)
    return subprocess.run(
        ("bash", "--noprofile", "--norc", "-eo", "pipefail", str(path)),
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )


@pytest.fixture
def runner(tmp_path):
    return Runner(tmp_path)


ALL_INPUTS = {
    "REQUIREMENTS": "peft==0.14.0\n\n  # of the paper\npeft-x @ git+https://g/p#subdirectory=a\n.\n",
    "CASES": "shift/* or so",
    "MATRIX": "extended",
    "BASE": "0004_peft-0.21.2",
    "JOBS": "2",
    "TIME_LIMIT": "600",
    "STRICT": "true",
}


def test_the_action_passes_its_inputs_to_the_command(runner):
    ended = runner.run(**ALL_INPUTS)
    assert ended.returncode == 0, ended.stderr
    requirements = ["peft==0.14.0", "peft-x @ git+https://g/p#subdirectory=a", "."]
    assert runner.call == [
        "upgrade",
        *("--cases", "shift/* or so", "--matrix", "extended", "--base", "0004_peft-0.21.2"),
        *("--jobs", "2", "--time-limit", "600", "--strict"),
        *(
            "--baselines",
            "/my checkout/.github/actions/gate/../../../baselines",
            "--yes",
            "--format",
            "json",
        ),
        *("--save", f"{runner.results}/run.json", "--summary", f"{runner.results}/findings.md"),
        *("--", *requirements),
    ]
    assert (runner.results / "requirements.txt").read_text().splitlines() == requirements


@pytest.mark.parametrize("inputs", [ALL_INPUTS, {"REQUIREMENTS": "."}])
def test_the_command_knows_every_option_of_the_action(runner, inputs):
    runner.run(**inputs)
    check_command(runner.call)


@pytest.mark.parametrize("value", ["", "false"])
def test_the_action_is_strict_only_on_request(runner, value):
    assert runner.run(REQUIREMENTS=".", STRICT=value).returncode == 0
    assert "--strict" not in runner.call


def test_an_unknown_value_of_strict_fails_the_step(runner):
    ended = runner.run(REQUIREMENTS=".", STRICT="yes")
    assert ended.returncode == 2
    assert "strict is 'yes'" in ended.stderr
    assert not (runner.folder / "call").exists()


def test_requirements_of_the_file_follow_those_of_the_input(runner):
    runner.run(REQUIREMENTS=".", REQUIREMENTS_FILE=str(ROOT / ".github/gated/requirements.txt"))
    names = [Requirement(line).name for line in runner.call[runner.call.index("--") + 2 :]]
    assert names == ["galore-torch", "peft", "torch", "torchvision"]


def test_a_missing_requirements_file_fails_the_step(runner):
    ended = runner.run(REQUIREMENTS=".", REQUIREMENTS_FILE="nowhere.txt")
    assert ended.returncode != 0
    assert "nowhere.txt" in ended.stderr
    assert not (runner.folder / "call").exists()


def test_no_line_of_the_findings_is_a_command_in_the_log(runner):
    ended = runner.run(code=1, REQUIREMENTS=".")
    assert "## finding\n : :error::x ## [y]" in ended.stdout
    assert runner.summary.read_text() == "## finding\n ::error::x ##[y]"


def test_the_shell_runs_no_input(runner):
    runner.run(REQUIREMENTS="$(touch hacked)\n--help\n`touch hacked`", CASES='"; touch hacked #')
    assert not (runner.folder / "hacked").exists()
    assert runner.call[runner.call.index("--") + 1 :] == [
        *("$(touch hacked)", "--help", "`touch hacked`")
    ]


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_action_exits_as_the_command_does_and_keeps_its_files(runner, code):
    assert runner.run(code=code, REQUIREMENTS=".").returncode == code
    kept = {path.name for path in runner.results.iterdir()}
    written = set() if code == 2 else {"run.json", "findings.md"}
    assert kept == {"exit-code", "findings.json", "requirements.txt"} | written
    assert f"exit-code={code}" in runner.output.read_text().splitlines()
    assert runner.summary.exists() is bool(written)


def test_the_tool_publishes_what_the_action_keeps(runner, capsys):
    runner.run(code=1, REQUIREMENTS=".")
    drafts = str(runner.folder / "drafts")
    assert prepare.main(["issue", str(runner.results), drafts]) == 0
    assert publish.main(["issue", drafts, "--dry-run"]) == 0
    assert "gh issue create --title finding" in capsys.readouterr().out


@pytest.mark.parametrize(("table", "wanted"), [(True, None), (False, "here/accepted")])
def test_the_storage_is_the_projects_own_if_it_has_one(runner, table, wanted):
    if table:
        (runner.folder / "pyproject.toml").write_text("[tool.peft_regress]\n")
    runner.run(REQUIREMENTS="peft==0.14.0", BASELINES=wanted or "")
    named = runner.call[runner.call.index("--baselines") + 1 :] if wanted else [None]
    assert named[0] == wanted
    assert ("--baselines" in runner.call) is bool(wanted)


class OwnProject:
    """Another repository with a first suite, in which the action's own steps run."""

    def __init__(self, folder):
        self.folder, self.temp = folder / "project", folder / "temp"
        programs = self.temp / "peft-regress" / "bin"
        programs.mkdir(parents=True)
        self.folder.mkdir()
        for name, module in (("python", ""), ("peft-regress", "-m peft_regress")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
            program.chmod(0o755)
        self.program = str(programs / "peft-regress")
        self.type("init")

    def type(self, *words):
        subprocess.run((self.program, *words), cwd=self.folder, check=True, capture_output=True)

    def gate(self, **inputs):
        """Run the step, and return exit code, what it printed, and its outputs."""
        output = self.temp / "output"
        output.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_ACTION_PATH": str(ACTION.parent),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(self.temp / "summary"),
            "PYTHONWARNINGS": "ignore",
            **NO_INPUTS,
            "TESTS": read(ACTION)["inputs"]["tests"]["default"],
            **inputs,
        }
        ended = run_script(action_step("Gate the candidate")["run"], self.folder, environment)
        lines = output.read_text().splitlines()
        return ended, dict(line.split("=", 1) for line in lines)


@pytest.mark.nightly
def test_the_action_gates_the_cases_of_another_repository_against_its_baselines(tmp_path):
    project = OwnProject(tmp_path)
    ended, first = project.gate()
    assert (ended.returncode, first["exit-code"], first["moved"]) == (1, "1", "true"), ended.stdout
    results = Path(first["results"])
    assert {"run.json", "findings.md", "findings.json"} <= {x.name for x in results.iterdir()}
    assert "digits/lora-r4/small" in (project.temp / "summary").read_text()
    project.type("accept", str(results / "run.json"), "--reason", "first numbers")
    ended, second = project.gate(CASES="digits/*")
    assert (ended.returncode, second["exit-code"], second["moved"]) == (0, "0", "false")
    cases = project.folder / "gates" / "cases.py"
    cases.write_text(cases.read_text().replace("Linear(64, 64)", "Linear(64, 64, bias=False)"))
    ended, third = project.gate()
    assert (ended.returncode, third["moved"]) == (1, "true")
    cases.write_text("import nowhere\n")
    ended, broken = project.gate()
    assert (ended.returncode, broken["exit-code"]) == (2, "2")
    assert "'gates.cases:GATES' does not import" in ended.stdout


FAKE_PYTEST = """#!/bin/sh
case "$*" in
    "-m pytest "*) if [ -f "$LEFT" ]; then cp "$LEFT" "$7"; fi; exit 0 ;;
    *) exec {python} "$@" ;;
esac
"""
OWN_IDS = ("digits/lora-r4/small", "digits/full/small")


@pytest.mark.parametrize(
    ("left", "inputs", "code"),
    [
        (OWN_IDS, {}, 0),
        (None, {}, 2),
        (OWN_IDS[:1], {}, 3),
        (OWN_IDS[:1], {"CASES": "*/lora-*"}, 0),
        (OWN_IDS[1:], {"CASES": "*/lora-*"}, 3),
    ],
    ids=["whole", "nothing", "one-lost", "one-asked-for", "another-left"],
)
def test_what_a_run_leaves_is_judged_whatever_pytest_says(tmp_path, left, inputs, code):
    """A test that calls `os._exit(0)` ends pytest with 0; the judge imports none of the project."""
    project = OwnProject(tmp_path)
    write_entry(project.folder / "baselines", 1, *map(make_record, OWN_IDS))
    (project.folder / "gates" / "cases.py").write_text("import os\nos._exit(0)\n")
    (project.temp / "peft-regress/bin/python").write_text(FAKE_PYTEST.format(python=sys.executable))
    run_file = tmp_path / "left.json"
    if left is not None:
        lost = sorted({*OWN_IDS} - {*left})
        narrowed = ["--regress-cases */lora-*"] if lost and inputs else []
        selection = Selection(
            complete=not lost, narrowed_by=narrowed, not_selected=lost if narrowed else []
        )
        write_run(run_file, make_run(*map(make_record, left), selection=selection))
    ended, outputs = project.gate(LEFT=str(run_file), **inputs)
    assert (ended.returncode, outputs["exit-code"]) == (code, str(code)), ended.stderr


def test_a_pull_request_is_judged_by_the_code_of_its_base():
    judge, baselines, *_ = workflow("bench")["jobs"]["verdict"]["steps"]
    assert judge["with"]["ref"] == "${{ github.event.pull_request.base.sha || github.sha }}"
    assert baselines["with"]["sparse-checkout"] == "baselines"
    assert "baselines" not in bench_step("verdict", "Install the command")["run"]


def test_the_last_step_of_the_local_run_judges_the_saved_run():
    """In a process of its own: it wants the file that was absent before."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    saved = re.search(r"--regress-save=(\S+)", "\n".join(lines))[1]
    steps = [line for line in lines if saved in line]
    assert steps[0] == f"rm -f {saved}"
    assert steps[1].startswith("step bench pytest ")
    words = shlex.split(steps[2])
    assert words[:3] == ["step", "verdict", "peft-regress"]
    assert check_command(words[3:])["new"] == saved


FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$FAKE_CALLS"
case "$*" in
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    *constraints.py*) exec {python} "$@" ;;
esac
"""


def installed(folder, **inputs):
    """Run the step that installs, and return the last command."""
    fake = folder / "bin" / "python"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(FAKE_PYTHON.format(python=sys.executable))
    fake.chmod(0o755)
    environment = {
        "PATH": f"{fake.parent}:/usr/bin:/bin",
        "RUNNER_TEMP": str(folder),
        "GITHUB_ACTION_PATH": str(ACTION.parent),
        "FAKE_CALLS": str(folder / "calls"),
        "INSTALL": "",
        **inputs,
    }
    ended = run_script(action_step("Install the gate")["run"], folder, environment)
    assert ended.returncode == 0, ended.stderr
    return (folder / "calls").read_text().splitlines()[-1]


def test_what_a_project_installs_itself_is_gated_and_not_constrained(tmp_path):
    lines = "# ours\n-r requirements.txt\n\n-e .\npeft @ git+https://g/p\n$(touch hacked)\n"
    words = f"{ROOT} -r requirements.txt -e . peft @ git+https://g/p $(touch hacked)"
    assert installed(tmp_path, INSTALL=lines) == f"-m pip install {words}"
    assert not (tmp_path / "hacked").exists()


def test_a_project_without_a_baseline_is_not_constrained(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.peft_regress]\nbaselines = 'data'\n")
    installed(tmp_path)
    assert (tmp_path / "constraints.txt").read_text() == "# data has no baseline yet\n"
    write_entry(tmp_path / "data", 1, make_record())
    installed(tmp_path)
    assert "peft==" in (tmp_path / "constraints.txt").read_text()


def test_the_action_installs_this_project_with_the_accepted_versions(tmp_path):
    install = f"-m pip install --constraint {tmp_path}/constraints.txt {ROOT}"
    assert installed(tmp_path) == install
    lines = (tmp_path / "constraints.txt").read_text().splitlines()
    pinned = {Requirement(line).name for line in lines if not line.startswith("#")}
    assert {"peft", "torch", "torchvision", "galore-torch"} <= pinned
    assert not {"peft-regress", "python"} & pinned


def test_constraints_come_from_the_newest_baseline(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "Linux"
    folder.mkdir()
    for number, (role, date, version) in enumerate(
        [
            ("baseline", "2027-01-02T00:00:00+00:00", "0.2"),
            ("baseline", "2026-01-01T23:30:00-02:00", "0.3"),
            ("history", "2026-01-03T00:00:00+00:00", "0.4"),
        ]
    ):
        run = {"accepted": {"role": role, "date": date}, "environment": {"peft": version}}
        (folder / f"000{number}_x.json").write_text(json.dumps({"peft_regress": run}))
    monkeypatch.setattr(sys, "argv", ["constraints.py", str(tmp_path)])
    assert constraints.main() == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["peft==0.3"]


@pytest.mark.parametrize("environment", [{"peft": "1\n--index-url=x"}, {"a b": "1"}, {"-r x": "1"}])
def test_no_line_of_the_constraints_is_an_option_of_pip(tmp_path, capsys, monkeypatch, environment):
    (tmp_path / "Linux").mkdir()
    accepted = {"role": "baseline", "date": "2026-01-02T00:00:00+00:00"}
    run = {"accepted": accepted, "environment": environment}
    (tmp_path / "Linux" / "0001_x.json").write_text(json.dumps({"peft_regress": run}))
    monkeypatch.setattr(sys, "argv", ["constraints.py", str(tmp_path)])
    assert constraints.main() == 2
    assert "is no package with its version" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "{", '{"peft_regress": {"accepted": null}}'])
def test_constraints_without_a_baseline_end_with_a_message_and_exit_2(
    tmp_path, capsys, monkeypatch, text
):
    if text is not None:
        (tmp_path / "Linux").mkdir()
        (tmp_path / "Linux" / "0001_x.json").write_text(text)
    monkeypatch.setattr(sys, "argv", ["constraints.py", str(tmp_path)])
    assert constraints.main() == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}")


# --- The gate in shards ---------------------------------------------------------------------------


def bench_step(job, name):
    (step,) = [s for s in workflow("bench")["jobs"][job]["steps"] if s["name"] == name]
    return step


def run_with(folder, script, commands, **environment):
    """Run a step's script with our own scripts in place of some commands."""
    folder.mkdir(exist_ok=True)
    for name, text in commands.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    return run_script(script, folder, {"PATH": path, **environment})


RECORDING_PYTHON = """#!/usr/bin/env bash\nprintf '%s\\n' "$@" > call\n"""


@pytest.mark.parametrize("index", [1, 4])
def test_tox_measures_a_shard(tmp_path, index):
    environment = {"SHARD": str(index), "GITHUB_STEP_SUMMARY": str(tmp_path / "a step.md")}
    script = bench_step("shard", "Measure")["run"]
    ended = run_with(tmp_path, script, {"python": RECORDING_PYTHON}, **environment)
    assert ended.returncode == 0, ended.stderr
    call = (tmp_path / "call").read_text().splitlines()
    assert call[:6] == ["-m", "tox", "run", "-e", "bench", "--"]
    assert call[6:] == [
        f"--regress-shard={index}/4",
        f"--regress-save=runs/shard-{index}.json",
        "--regress-strict",
        f"--regress-summary={tmp_path}/a step.md",
    ]


def test_there_is_one_shard_per_architecture():
    shards = workflow("bench")["jobs"]["shard"]["strategy"]["matrix"]["shard"]
    assert shards == list(range(1, len(shards) + 1))
    assert f"/{len(shards)}" in bench_step("shard", "Measure")["run"]
    cases = matrix_cases("default")
    assert len({case.architecture for case in cases}) == len(shards)
    assert set(shard_of(cases, count=len(shards), weights={}).values()) == set(shards)


PEFT_REGRESS = '#!/usr/bin/env bash\nexec {python} -m peft_regress "$@"\n'
JUDGE = "Judge the shards as one run"


def judged(tmp_path, *, lost=(), metrics=None):
    """Run the judging step, with the real command, on shards of the whole matrix."""
    storage = tmp_path / "proposed" / "baselines"
    write_entry(storage, 1, *(make_record(c.id) for c in matrix_cases("default")))
    more = {} if metrics is None else {"metrics": metrics}
    write_shards(tmp_path / "shards", lost=lost, **more)
    command = {"peft-regress": PEFT_REGRESS.format(python=sys.executable)}
    summary = tmp_path / "step.md"
    summary.write_text("before\n")
    environment = {"GITHUB_STEP_SUMMARY": str(summary), "PYTHONPATH": str(ROOT)}
    ended = run_with(tmp_path, bench_step("verdict", JUDGE)["run"], command, **environment)
    comment = (tmp_path / "verdict" / "comment.md").read_text()
    assert summary.read_text() == f"before\n{comment}"
    return ended, comment


def test_shards_without_a_regression_pass_and_become_one_run_file(tmp_path):
    ended, comment = judged(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "no regression (96 unchanged)" in comment
    assert len(read_run_file(tmp_path / "run.json").run.cases) == 96


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"metrics": {**VALUES, "forward_flops": 10**10}}, 1, "REGRESSED (96 regressed)"),
        ({"metrics": {**VALUES, "forward_flops": 1}}, 1, "not accepted"),
        ({"lost": ["shift/lora-r4/resnet18"]}, 3, "1 missing"),
    ],
)
def test_a_red_verdict_fails_the_step_and_keeps_the_run(tmp_path, change, code, words):
    ended, comment = judged(tmp_path, **change)
    assert ended.returncode == code, ended.stderr
    assert words in comment
    assert (tmp_path / "run.json").exists()
    # The tool can make a comment of it.
    drafts = str(tmp_path / "drafts")
    assert prepare.main(["comment", str(tmp_path / "verdict"), drafts]) == 0
    assert publish.main(["comment", drafts, "--run", "12", "--dry-run"]) == 0


def test_no_shard_fails_the_step_with_the_reason(tmp_path):
    write_entry(tmp_path / "proposed" / "baselines", 1, make_record())
    command = {"peft-regress": PEFT_REGRESS.format(python=sys.executable)}
    environment = {"GITHUB_STEP_SUMMARY": str(tmp_path / "step.md"), "PYTHONPATH": str(ROOT)}
    ended = run_with(tmp_path, bench_step("verdict", JUDGE)["run"], command, **environment)
    assert ended.returncode == 2
    assert "shards" in ended.stderr
    assert (tmp_path / "verdict" / "comment.md").read_text() == ""


def test_the_judging_step_proposes_what_it_saved():
    (line,) = [
        line
        for line in bench_step("verdict", JUDGE)["run"].splitlines()
        if line.startswith("peft-regress ")
    ]
    words = shlex.split(line.partition(" > ")[0])[1:]
    chosen = check_command(words)
    assert (chosen["old"], chosen["new"]) == ("proposed/baselines", "shards")
    assert chosen["strict"]
    assert chosen["stored_only"]
    proposed = bench_step("verdict", "Propose the run as a baseline")["with"]["path"].split()
    assert proposed == [str(chosen["save"]), "run.adapters"]


# --- Dependabot -----------------------------------------------------------------------------------


def test_dependabot_updates_every_pin_and_a_workflow_gates_the_new_ones():
    updates = read(ROOT / ".github" / "dependabot.yml")["updates"]
    watched = {
        (update["package-ecosystem"], folder)
        for update in updates
        for folder in update.get("directories") or [update["directory"]]
    }
    assert watched == {
        *(("pip", "/"), ("pip", "/.github/gated")),
        *(("github-actions", "/"), ("github-actions", "/.github/actions/gate")),
    }
    bump = workflow("bump")
    gated = bump["jobs"]["gate"]["with"]["requirements-file"]
    assert bump["on"]["pull_request"]["paths"] == [gated] == [".github/gated/requirements.txt"]
    lines = (ROOT / gated).read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {pin.name for pin in pins} == {"peft", "galore-torch", "torch", "torchvision"}
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert "*" not in specifier.version
