"""Workflows, action, Dependabot: pinned, with few permissions, and with commands that run."""

from __future__ import annotations

import configparser
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import constraints
import publish
import pytest
import yaml
from builders import VALUES, make_record, write_entry, write_shards
from packaging.requirements import Requirement

from peft_regress.catalogue.matrix import matrix_cases, shard_of
from peft_regress.cli.main import cli
from peft_regress.runs.run_file import read_run_file

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
ACTION = ROOT / "action.yml"
PAGE = (ROOT / "docs" / "ci.md").read_text()


def read(path):
    # Not `safe_load` alone: YAML 1.1 reads the key `on` as true.
    document = yaml.safe_load(path.read_text())
    return {("on" if key is True else key): value for key, value in document.items()}


def workflow(name):
    return read(ROOT / ".github" / "workflows" / f"{name}.yml")


def jobs():
    """Return (file, job's name, job) of every workflow."""
    return [
        pytest.param(job, id=f"{path.stem}-{name}")
        for path in WORKFLOWS
        for name, job in read(path)["jobs"].items()
    ]


def steps():
    """Return every step of every workflow and of the action."""
    found = [
        (path.stem, job.get("steps", []))
        for path in WORKFLOWS
        for job in read(path)["jobs"].values()
    ]
    found.append(("action", read(ACTION)["runs"]["steps"]))
    return [(name, step) for name, listed in found for step in listed]


def writes(job):
    return {name for name, access in job["permissions"].items() if access == "write"}


EVERY_FILE = pytest.mark.parametrize("path", [*WORKFLOWS, ACTION], ids=lambda path: path.name)
EVERY_WORKFLOW = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


# --- What may be run, and with which token --------------------------------------------------------


@EVERY_FILE
def test_every_action_is_pinned_to_a_commit_and_says_its_version(path):
    used = re.findall(r"^\s*(?:- )?uses: (.*)$", path.read_text(), re.MULTILINE)
    assert used
    for line in used:
        assert re.fullmatch(r"\$/\S*|[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_an_action_is_of_the_same_commit_wherever_it_is_used():
    lines = {
        line
        for path in [*WORKFLOWS, ACTION]
        for line in re.findall(r"uses: (\S+@.*)$", path.read_text(), re.MULTILINE)
    }
    assert len(lines) == len({line.partition("@")[0] for line in lines})


@EVERY_WORKFLOW
def test_a_workflow_as_a_whole_may_do_nothing(path):
    assert read(path)["permissions"] == {}


@pytest.mark.parametrize("job", jobs())
def test_a_job_names_what_it_may_do(job):
    assert job["permissions"].get("contents") in {"read", "write"}
    assert set(job["permissions"].values()) <= {"read", "write"}


def test_what_may_be_written_is_written_by_the_three_jobs_that_publish():
    found = {
        (path.stem, name): writes(job)
        for path in WORKFLOWS
        for name, job in read(path)["jobs"].items()
        if writes(job)
    }
    assert found == {
        ("comment", "comment"): {"pull-requests"},
        ("upgrade", "issue"): {"issues"},
        ("upgrade", "baseline"): {"contents", "pull-requests"},
    }


@EVERY_WORKFLOW
def test_code_of_a_fork_never_meets_a_token_that_writes(path):
    document = read(path)
    events = set(document["on"])
    assert not events & {"pull_request_target", "issue_comment"}
    assert ("workflow_run" in events) is (path.stem == "comment")
    if any(writes(job) for job in document["jobs"].values()):
        assert events in ({"schedule", "workflow_dispatch"}, {"workflow_run"})


def test_the_job_that_comments_runs_the_default_branch_s_tool_and_nothing_else():
    """What started it may be a fork's: none of it is checked out, its artifact is text."""
    (job,) = workflow("comment")["jobs"].values()
    assert job["permissions"] == {
        "actions": "read",
        "contents": "read",
        "pull-requests": "write",
    }
    checkout, python, download = (step for step in job["steps"] if "uses" in step)
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"] == {"persist-credentials": False}  # and so the default branch
    assert python["uses"].startswith("actions/setup-python@")
    assert download["uses"].startswith("actions/download-artifact@")
    assert download["with"]["path"].startswith("${{ runner.temp }}/")
    (publishing,) = (step for step in job["steps"] if "run" in step)
    tool = 'python tools/ci/publish.py comment "$RUNNER_TEMP/verdict" --run "$RUN_ID"'
    assert publishing["run"] == tool
    assert "GH_TOKEN" in publishing["env"]
    assert "env" not in job
    # What it knows of the run is what GitHub says of it: an id, and no name that a fork chose.
    text = (ROOT / ".github" / "workflows" / "comment.yml").read_text()
    expressions = set(re.findall(r"\$\{\{ (.*?) \}\}", text.partition("jobs:")[2]))
    run = "github.event.workflow_run"
    assert expressions == {f"{run}.id", "github.repository", "github.token", "runner.temp"}


def test_the_comment_is_made_of_what_the_bench_keeps():
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
        for step in comment["jobs"]["comment"]["steps"]
        if "download-artifact" in step.get("uses", "")
    )
    assert download["with"]["name"] == "verdict"
    assert download["continue-on-error"] is True


@pytest.mark.parametrize(("name", "step"), steps())
def test_no_expression_stands_in_a_shell_script(name, step):
    assert "${{" not in step.get("run", "")


@pytest.mark.parametrize(("name", "step"), steps())
def test_a_checkout_leaves_no_token_behind(name, step):
    if step.get("uses", "").startswith("actions/checkout@"):
        assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("name", ["issue", "baseline"])
def test_a_job_that_publishes_never_checks_out_or_installs_the_candidate(name):
    job = workflow("upgrade")["jobs"][name]
    assert job["needs"] == "gate"
    assert "github.ref == 'refs/heads/main'" in job["if"]
    checkout, *others = [step for step in job["steps"] if "uses" in step]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"] == {"persist-credentials": False}
    used = [step["uses"].partition("@")[0] for step in others]
    assert used == ["actions/setup-python", "actions/download-artifact"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    install = [
        "python tools/ci/constraints.py baselines > constraints.txt",
        "python -m pip install --constraint constraints.txt .",
    ]
    assert commands == [
        *(install if name == "baseline" else []),
        f"python tools/ci/publish.py {name} results",
    ]
    # The token reaches the one step that publishes.
    with_token = [step for step in job["steps"] if "GH_TOKEN" in step.get("env", {})]
    assert [step["run"] for step in with_token] == commands[-1:]
    assert "GH_TOKEN" not in job.get("env", {})


def test_each_candidate_that_is_gated_is_published():
    found = workflow("upgrade")["jobs"]
    gated = [entry["candidate"] for entry in found["gate"]["strategy"]["matrix"]["include"]]
    assert found["issue"]["strategy"]["matrix"]["candidate"] == gated == ["release", "main"]
    assert found["gate"]["with"]["artifact"] == "upgrade-${{ matrix.candidate }}"


# --- Inputs ---------------------------------------------------------------------------------------


def test_the_reusable_workflow_hands_every_input_to_the_action():
    document = workflow("gate")
    inputs = set(document["on"]["workflow_call"]["inputs"])
    (step,) = [s for s in document["jobs"]["gate"]["steps"] if s.get("uses") == "$/"]
    assert step["with"] == {name: f"${{{{ inputs.{name} }}}}" for name in inputs}
    assert inputs <= set(read(ACTION)["inputs"])


@pytest.mark.parametrize("job", jobs())
def test_a_call_of_the_reusable_workflow_names_its_inputs(job):
    if job.get("uses") == "$/.github/workflows/gate.yml":
        assert set(job["with"]) <= set(workflow("gate")["on"]["workflow_call"]["inputs"])


def test_the_page_s_examples_name_inputs_that_there_are():
    known = {
        "OWNER/peft_regress@REF": set(read(ACTION)["inputs"]),
        "OWNER/peft_regress/.github/workflows/gate.yml@REF": set(
            workflow("gate")["on"]["workflow_call"]["inputs"]
        ),
    }
    seen = set()
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        for used in uses_of(yaml.safe_load(block)):
            if used["uses"] in known:
                seen.add(used["uses"])
                assert set(used.get("with", {})) <= known[used["uses"]]
    assert seen == known.keys()


def uses_of(value):
    """Return every mapping with `uses` within a value."""
    if isinstance(value, dict):
        inner = list(itertools.chain.from_iterable(map(uses_of, value.values())))
        return [value, *inner] if "uses" in value else inner
    return (
        list(itertools.chain.from_iterable(map(uses_of, value))) if isinstance(value, list) else []
    )


# --- Commands -------------------------------------------------------------------------------------


def check_command(words):
    """Parse a command by its own parser, without running it."""
    name = words[0]
    command = cli.get_command(click.Context(cli), name)
    return command.make_context(name, list(words[1:])).params


def documented(name):
    return re.findall(rf"^\$ {name} (.*)$", PAGE, re.MULTILINE)


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
UPGRADES = re.compile(r"^\$ peft-regress ((?:upgrade|bisect) .*)$", re.MULTILINE)


@pytest.mark.parametrize("line", documented("peft-regress"))
def test_a_command_of_the_page_is_one(line):
    check_command(shlex.split(line.partition(" > ")[0], comments=True))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_an_upgrade_or_a_bisection_of_any_page_is_a_command(page):
    for line in UPGRADES.findall(page.read_text()):
        check_command(shlex.split(line.removesuffix("\\"), comments=True))


def test_an_option_that_is_none_is_no_command():
    bisection = "bisect peft --good 0.14.0 --bad 0.15.0 --case shift/dora-r4/resnet18"
    assert check_command(shlex.split(bisection))["good"] == "0.14.0"
    with pytest.raises(click.UsageError):
        check_command(shlex.split(f"{bisection} --no-such"))


@pytest.mark.parametrize("line", documented("python tools/ci/publish.py"))
def test_a_publishing_command_of_the_page_is_one(line):
    publish.argument_parser().parse_args(shlex.split(line, comments=True))


def test_every_step_that_publishes_is_a_command_of_the_tool():
    lines = [
        line
        for _, step in steps()
        for line in step.get("run", "").splitlines()
        if "publish.py" in line
    ]
    assert len(lines) == 3
    folders = set()
    for line in lines:
        python, tool, *words = shlex.split(line.replace("$RUN_ID", "12"))
        assert (python, tool) == ("python", "tools/ci/publish.py")
        folders.add(str(publish.argument_parser().parse_args(words).results))
    assert folders == {"results", "$RUNNER_TEMP/verdict"}


@pytest.mark.parametrize("release", ["014", "015", "018", "019", "020"])
def test_tox_runs_the_command_on_a_release(release):
    section = tox()["testenv:bench-peft{014,015,018,019,020}"]
    version = re.search(rf"peft{release}: PEFT_VERSION = (\S+)", section["set_env"]).group(1)
    assert version.replace(".", "").startswith(release)
    line = section["commands"].strip().replace("{env:PEFT_VERSION}", version)
    line = line.replace("{toxinidir}", "/t").replace("{envname}", f"bench-peft{release}")
    command, *words = shlex.split(line.replace("{posargs}", "--cases 'shift/*'"))
    assert command == "peft-regress"
    assert words[:2] == ["upgrade", f"peft=={version}"]
    check_command(words)


def tox():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini")
    return parser


def test_lint_checks_every_workflow_the_action_and_dependabot():
    listed = tox()["lint"]["workflows"].split()
    assert listed == [path.relative_to(ROOT).as_posix() for path in WORKFLOWS]
    commands = tox()["testenv:lint"]["commands"]
    for schema in (
        "vendor.github-workflows {[lint]workflows}",
        "vendor.github-actions action.yml",
        "vendor.dependabot .github/dependabot.yml",
    ):
        assert f"check-jsonschema --builtin-schema {schema}" in commands
    assert "zizmor --offline" in commands


# --- The action's scripts, run --------------------------------------------------------------------

FAKE_COMMAND = """#!{python}
import json, os, pathlib, sys
pathlib.Path(os.environ["FAKE_CALL"]).write_text(json.dumps(sys.argv[1:]))
for option, text in (("--save", "{{}}"), ("--summary", "## finding")):
    if int(os.environ["FAKE_CODE"]) != 2:
        pathlib.Path(sys.argv[sys.argv.index(option) + 1]).write_text(text)
print('{{"exit_code": 1}}')
sys.exit(int(os.environ["FAKE_CODE"]))
"""
NO_INPUTS = dict.fromkeys(
    (
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
    """A step of the action, run as GitHub runs it, with a command that notes its call."""

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
            "GITHUB_ACTION_PATH": "/action of mine",
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


def test_the_action_hands_its_inputs_to_the_command(runner):
    ended = runner.run(**ALL_INPUTS)
    assert ended.returncode == 0, ended.stderr
    requirements = ["peft==0.14.0", "peft-x @ git+https://g/p#subdirectory=a", "."]
    assert runner.call == [
        "upgrade",
        *("--cases", "shift/* or so", "--matrix", "extended", "--base", "0004_peft-0.21.2"),
        *("--jobs", "2", "--time-limit", "600", "--strict"),
        *("--baselines", "/action of mine/baselines", "--yes", "--format", "json"),
        *("--save", f"{runner.results}/run.json", "--summary", f"{runner.results}/findings.md"),
        *("--", *requirements),
    ]
    assert (runner.results / "requirements.txt").read_text().splitlines() == requirements


@pytest.mark.parametrize("inputs", [ALL_INPUTS, {"REQUIREMENTS": "."}])
def test_the_action_s_call_is_one_of_the_command(runner, inputs):
    runner.run(**inputs)
    check_command(runner.call)


@pytest.mark.parametrize("value", ["", "false"])
def test_the_action_is_strict_only_where_it_is_asked_to_be(runner, value):
    assert runner.run(REQUIREMENTS=".", STRICT=value).returncode == 0
    assert "--strict" not in runner.call


def test_a_strictness_that_is_neither_fails_the_step(runner):
    ended = runner.run(REQUIREMENTS=".", STRICT="yes")
    assert ended.returncode == 2
    assert "strict is 'yes'" in ended.stderr
    assert not (runner.folder / "call").exists()


def test_requirements_of_a_file_are_gated_with_those_of_the_input(runner):
    runner.run(REQUIREMENTS=".", REQUIREMENTS_FILE=str(ROOT / ".github/gated/requirements.txt"))
    names = [Requirement(line).name for line in runner.call[runner.call.index("--") + 2 :]]
    assert names == ["galore-torch", "peft", "torch", "torchvision"]


def test_a_file_of_requirements_that_is_not_there_fails_the_step(runner):
    ended = runner.run(REQUIREMENTS=".", REQUIREMENTS_FILE="nowhere.txt")
    assert ended.returncode != 0
    assert "nowhere.txt" in ended.stderr
    assert not (runner.folder / "call").exists()


def test_an_input_is_no_shell(runner):
    runner.run(REQUIREMENTS="$(touch hacked)\n--help\n`touch hacked`", CASES='"; touch hacked #')
    assert not (runner.folder / "hacked").exists()
    assert runner.call[runner.call.index("--") + 1 :] == [
        *("$(touch hacked)", "--help", "`touch hacked`")
    ]


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_action_ends_as_the_command_does_and_keeps_what_there_is(runner, code):
    assert runner.run(code=code, REQUIREMENTS=".").returncode == code
    kept = {path.name for path in runner.results.iterdir()}
    written = set() if code == 2 else {"run.json", "findings.md"}
    assert kept == {"exit-code", "findings.json", "requirements.txt"} | written
    assert f"exit-code={code}" in runner.output.read_text().splitlines()
    assert runner.summary.exists() is bool(written)


def test_what_the_action_keeps_is_what_the_tool_publishes(runner, capsys):
    runner.run(code=1, REQUIREMENTS=".")
    assert publish.main(["issue", str(runner.results), "--dry-run"]) == 0
    assert "gh issue create --title finding" in capsys.readouterr().out


FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$FAKE_CALLS"
case "$*" in
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    *constraints.py*) exec {python} "$@" ;;
esac
"""


def test_the_action_installs_this_project_with_what_is_accepted(tmp_path):
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text(FAKE_PYTHON.format(python=sys.executable))
    fake.chmod(0o755)
    environment = {
        "PATH": f"{fake.parent}:/usr/bin:/bin",
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_ACTION_PATH": str(ROOT),
        "FAKE_CALLS": str(tmp_path / "calls"),
    }
    ended = run_script(action_step("Install the gate")["run"], tmp_path, environment)
    assert ended.returncode == 0, ended.stderr
    install = f"-m pip install --constraint {tmp_path}/constraints.txt {ROOT}"
    assert (tmp_path / "calls").read_text().splitlines()[-1] == install
    lines = (tmp_path / "constraints.txt").read_text().splitlines()
    pinned = {Requirement(line).name for line in lines if not line.startswith("#")}
    assert {"peft", "torch", "torchvision", "galore-torch"} <= pinned
    assert not {"peft-regress", "python"} & pinned


def test_constraints_are_of_the_newest_entry_that_judges(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "Linux"
    folder.mkdir()
    for number, (role, date, version) in enumerate(
        [
            ("baseline", "2026-01-02T00:00:00+00:00", "0.2"),
            ("baseline", "2026-01-01T23:30:00-02:00", "0.3"),
            ("history", "2026-01-03T00:00:00+00:00", "0.4"),
        ]
    ):
        run = {"accepted": {"role": role, "date": date}, "environment": {"peft": version}}
        (folder / f"000{number}_x.json").write_text(json.dumps({"peft_regress": run}))
    monkeypatch.setattr(sys, "argv", ["constraints.py", str(tmp_path)])
    assert constraints.main() == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["peft==0.3"]


@pytest.mark.parametrize("text", [None, "{", '{"peft_regress": {"accepted": null}}'])
def test_no_baseline_is_a_clear_message_and_exit_2(tmp_path, capsys, monkeypatch, text):
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
    """Run a step's script where some commands are scripts of ours."""
    folder.mkdir(exist_ok=True)
    for name, text in commands.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    return run_script(script, folder, {"PATH": path, **environment})


NOTING_PYTHON = """#!/usr/bin/env bash\nprintf '%s\\n' "$@" > call\n"""


@pytest.mark.parametrize("index", [1, 4])
def test_a_shard_is_measured_by_tox(tmp_path, index):
    environment = {"SHARD": str(index), "GITHUB_STEP_SUMMARY": str(tmp_path / "a step.md")}
    script = bench_step("shard", "Measure")["run"]
    ended = run_with(tmp_path, script, {"python": NOTING_PYTHON}, **environment)
    assert ended.returncode == 0, ended.stderr
    call = (tmp_path / "call").read_text().splitlines()
    assert call[:6] == ["-m", "tox", "run", "-e", "bench", "--"]
    assert call[6:] == [
        f"--regress-shard={index}/4",
        f"--regress-save=runs/shard-{index}.json",
        "--regress-strict",
        f"--regress-summary={tmp_path}/a step.md",
    ]


def test_the_shards_are_those_that_there_are_and_one_each_architecture():
    shards = workflow("bench")["jobs"]["shard"]["strategy"]["matrix"]["shard"]
    assert shards == list(range(1, len(shards) + 1))
    assert f"/{len(shards)}" in bench_step("shard", "Measure")["run"]
    cases = matrix_cases("default")
    assert len({case.architecture for case in cases}) == len(shards)
    assert set(shard_of(cases, count=len(shards), weights={}).values()) == set(shards)


PEFT_REGRESS = '#!/usr/bin/env bash\nexec {python} -m peft_regress "$@"\n'
JUDGE = "Judge the shards as one run"


def judged(tmp_path, *, lost=(), metrics=None):
    """Run the step that judges, with the real command, on shards of the whole matrix."""
    write_entry(tmp_path / "baselines", 1, *(make_record(c.id) for c in matrix_cases("default")))
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


def test_shards_without_a_regression_pass_and_are_one_run_file(tmp_path):
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
def test_a_red_verdict_fails_the_step_and_is_kept_with_the_run(tmp_path, change, code, words):
    ended, comment = judged(tmp_path, **change)
    assert ended.returncode == code, ended.stderr
    assert words in comment
    assert (tmp_path / "run.json").exists()
    # And the tool makes a comment of it.
    posted = publish.main(["comment", str(tmp_path / "verdict"), "--run", "12", "--dry-run"])
    assert posted == 0


def test_no_shard_at_all_fails_the_step_with_the_reason(tmp_path):
    write_entry(tmp_path / "baselines", 1, make_record())
    command = {"peft-regress": PEFT_REGRESS.format(python=sys.executable)}
    environment = {"GITHUB_STEP_SUMMARY": str(tmp_path / "step.md"), "PYTHONPATH": str(ROOT)}
    ended = run_with(tmp_path, bench_step("verdict", JUDGE)["run"], command, **environment)
    assert ended.returncode == 2
    assert "shards" in ended.stderr
    assert (tmp_path / "verdict" / "comment.md").read_text() == ""


def test_the_judging_step_s_call_is_one_of_the_command():
    (line,) = [
        line
        for line in bench_step("verdict", JUDGE)["run"].splitlines()
        if line.startswith("peft-regress ")
    ]
    words = shlex.split(line.partition(" > ")[0])[1:]
    chosen = check_command(words)
    assert (chosen["old"], chosen["new"], chosen["strict"]) == ("baselines", "shards", True)
    proposed = bench_step("verdict", "Propose the run as a baseline")["with"]["path"].split()
    assert proposed == [str(chosen["save"]), "run.adapters"]


# --- Dependabot -----------------------------------------------------------------------------------


def test_dependabot_raises_the_pins_that_a_workflow_gates():
    updates = read(ROOT / ".github" / "dependabot.yml")["updates"]
    watched = {(update["package-ecosystem"], update["directory"]) for update in updates}
    assert watched == {("pip", "/"), ("pip", "/.github/gated"), ("github-actions", "/")}
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
