"""The action's scripts, run: its inputs, its exit code, what it keeps, and what it installs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import constraints
import prepare
import publish
import pytest
from builders import make_record, make_run, write_entry, write_run
from command_words import check_command
from packaging.requirements import Requirement
from step_sandbox import run_script
from workflow_files import ACTION, ROOT, read

from peft_regress.runs.schema import Selection

FAKE_COMMAND = """#!{python}
import json, os, pathlib, sys
if sys.argv[1] == "report":
    pathlib.Path(os.environ["FAKE_CALL"] + "-report").write_text(json.dumps(sys.argv[1:]))
    pathlib.Path(sys.argv[sys.argv.index("--html") + 1]).write_text("<html>")
    sys.exit(int(os.environ.get("FAKE_REPORT_CODE", "0")))
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
    written = set() if code == 2 else {"run.json", "findings.md", "report.html"}
    assert kept == {"exit-code", "findings.json", "requirements.txt"} | written
    assert f"exit-code={code}" in runner.output.read_text().splitlines()
    assert runner.summary.exists() is bool(written)


def test_the_page_shows_the_run_beside_the_storage_that_judged_it(runner):
    runner.run(code=1, REQUIREMENTS=".", BASELINES="here/accepted")
    words = json.loads((runner.folder / "call-report").read_text())
    shown = check_command(words)
    assert shown["runs"] == (str(runner.results / "run.json"),)
    assert (str(shown["baselines"]), shown["page"]) == (
        "here/accepted",
        runner.results / "report.html",
    )


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_page_that_cannot_be_made_changes_no_verdict(runner, code):
    ended = runner.run(code=code, REQUIREMENTS=".", FAKE_REPORT_CODE="2")
    assert ended.returncode == code
    assert "no page of this run" in ended.stderr
    assert f"exit-code={code}" in runner.output.read_text()


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
    kept = {path.name for path in results.iterdir()}
    assert {"run.json", "findings.md", "findings.json", "report.html"} <= kept
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
    # The page imports none of the project either.
    assert (Path(outputs["results"]) / "report.html").exists() is (left is not None)


# --- What it installs -----------------------------------------------------------------------------

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
