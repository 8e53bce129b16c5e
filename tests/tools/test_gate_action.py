"""The action's scripts, run: its inputs, its exit code, what it keeps, and what it installs."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import publish
import pytest
from builders import make_record, make_run, write_entry, write_run
from command_words import check_command
from packaging.requirements import Requirement
from step_sandbox import Answer, StepSandbox
from workflow_files import ACTION, ROOT, read, scripts

from peft_regress.cli.main import cli
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Selection

SCRIPTS = scripts()
DEFAULTS = {name: str(one.get("default", "")) for name, one in read(ACTION)["inputs"].items()}
FINDINGS = "## finding\n ::error::x ##[y]"


def upgraded(code=0):
    """Return what `upgrade` leaves; nothing but its findings where the candidate cannot run."""
    files = {} if code == 2 else {"--save": "{}", "--summary": FINDINGS}
    return Answer(start="peft-regress upgrade", code=code, output='{"counts": {}}', files=files)


PAGE = Answer(start="peft-regress report", files={"--html": "<html>"})


class Gate:
    def __init__(self, folder, **settings):
        self.sandbox = StepSandbox(folder, **settings)
        self.project = self.sandbox.workspace

    def run(self, *answers, step="Gate the candidate", **inputs):
        named = {name.replace("_", "-"): value for name, value in inputs.items()}
        context = {f"inputs.{name}": value for name, value in {**DEFAULTS, **named}.items()}
        return self.sandbox.run(SCRIPTS[f"action/gate/{step}"], context=context, answers=answers)

    def upgrade(self, *, code=0, **inputs):
        return self.run(upgraded(code), PAGE, **{"requirements": ".", **inputs})


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path)


def command_of(ended, name="upgrade"):
    (call,) = (call[1:] for call in ended.calls if call[:2] == ["peft-regress", name])
    check_command(call)
    return call


def results_of(ended):
    return Path(ended.outputs["results"])


OWN = "[tool.peft_regress]\n"
PULL = {"GITHUB_BASE_REF": "main", "GITHUB_REF": "refs/pull/7/merge", "GITHUB_SHA": "c0ffee"}
GIT = [
    Answer(start="git rev-parse HEAD", output="c0ffee"),
    Answer(start="git rev-parse --is-shallow", output="true"),
    Answer(start="git rev-parse --quiet", code=1),
]
RELEASE = {"requirements": "peft==0.14.0"}
EVERY_INPUT = {
    "requirements": "peft==0.14.0\n\n  # ours\npeft-x @ git+https://g/p#subdirectory=a\n.\n",
    "cases": "shift/* or so",
    "matrix": "extended",
    "base": "0004_peft-0.21.2",
    "jobs": "2",
    "time_limit": "600",
    "strict": "true",
}
SCENARIOS = {
    "every input": (EVERY_INPUT, {}, ""),
    "a checkout": ({}, {}, ""),
    "a release, with the storage of the project": (RELEASE, {}, OWN),
    "a release in a pull request": (RELEASE, PULL, ""),
    "a named base in a pull request": ({"base": "0004"}, PULL, ""),
    "a pull request of a library": ({}, PULL, ""),
    "one whose merge moved": ({"requirements": "./python"}, {**PULL, "GITHUB_SHA": "other"}, ""),
    # A checkout with cases would run its code of today on both sides of a commit.
    "a pull request of a project with cases of its own": ({}, PULL, OWN),
}


@pytest.mark.parametrize(("inputs", "variables", "settings"), SCENARIOS.values(), ids=SCENARIOS)
def test_what_the_action_runs(gate, snapshot, inputs, variables, settings):
    (gate.project / "pyproject.toml").write_text(settings)
    gate.sandbox.variables |= variables
    ended = gate.run(*GIT, upgraded(), PAGE, **{"requirements": ".", **inputs})
    assert ended.code == 0, ended.errors
    lines = (results_of(ended) / "requirements.txt").read_text().splitlines()
    words = [word.replace(str(results_of(ended)), "RESULTS") for word in command_of(ended)]
    calls = [line for line in ended.lines if "fetch" in line]
    assert {
        "fetched": calls,
        "requirements": lines,
        "upgrade": [word.replace(str(ACTION.parent), "ACTION") for word in words],
    } == snapshot


@pytest.mark.parametrize(
    ("inputs", "words"),
    [({"requirements_file": "nowhere.txt"}, "nowhere.txt"), ({"strict": "yes"}, "strict is 'yes'")],
)
def test_a_wrong_input_fails_the_step_before_anything_is_measured(gate, inputs, words):
    ended = gate.upgrade(**inputs)
    assert ended.code != 0
    assert words in ended.errors
    assert ended.calls == []


def test_the_shell_runs_no_input_and_the_log_no_line_of_the_findings(gate, capsys):
    ended = gate.upgrade(
        requirements="$(touch hacked)\n--help\n`touch hacked`", cases='"; touch hacked #', code=1
    )
    assert not (gate.project / "hacked").exists()
    (call,) = (call for call in ended.calls if "upgrade" in call)
    assert call[call.index("--") + 1 :] == ["$(touch hacked)", "--help", "`touch hacked`"]
    assert "## finding\n : :error::x ## [y]" in ended.output
    assert ended.summary == FINDINGS
    assert publish.main(["issue", str(results_of(ended)), "--dry-run"]) == 0
    assert "--title finding" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "has_page"), [(0, True), (1, False), (2, True), (3, True)])
def test_the_action_exits_as_the_command_does_and_keeps_its_files(gate, code, has_page):
    page = PAGE if has_page else Answer(start="peft-regress report", code=2)
    ended = gate.run(upgraded(code), page, requirements=".")
    kept = {path.name for path in results_of(ended).iterdir()}
    written = set() if code == 2 else {"run.json", "findings.md"}
    written |= {"report.html"} if code != 2 and has_page else set()
    assert kept == {"exit-code", "findings.json", "requirements.txt"} | written
    assert (ended.code, ended.outputs["exit-code"]) == (code, str(code))
    assert ("no page of this run" in ended.errors) is (code != 2 and not has_page)


OWN_IDS = ("digits/lora-r4/small", "digits/full/small")


@pytest.mark.parametrize(
    ("left", "inputs", "code"),
    [
        (OWN_IDS, {}, 0),
        (None, {}, 2),
        (OWN_IDS[:1], {}, 3),
        (OWN_IDS[:1], {"cases": "*/lora-*"}, 0),
        (OWN_IDS[1:], {"cases": "*/lora-*"}, 3),
    ],
    ids=["whole", "nothing", "one-lost", "one-asked-for", "another-left"],
)
def test_what_a_run_leaves_is_judged_whatever_pytest_says(tmp_path, left, inputs, code):
    """A test that calls `os._exit(0)` ends pytest with 0; the judge imports none of the project."""
    project = Gate(tmp_path)
    with contextlib.chdir(project.project):
        cli.main(args=["init"], standalone_mode=False)
    write_entry(project.project / "baselines", 1, *map(make_record, OWN_IDS))
    (project.project / "gates" / "cases.py").write_text("import os\nos._exit(0)\n")
    files = {}
    if left is not None:
        lost = sorted({*OWN_IDS} - {*left})
        narrowed = ["--regress-cases */lora-*"] if lost and inputs else []
        selection = Selection(
            complete=not lost, narrowed_by=narrowed, not_selected=lost if narrowed else []
        )
        run = make_run(*map(make_record, left), selection=selection)
        files["--regress-save"] = write_run(tmp_path / "left.json", run).read_text()
    ended = project.run(Answer(start="python -m pytest", files=files), **inputs)
    assert (ended.code, ended.outputs["exit-code"]) == (code, str(code)), ended.errors
    if left is not None:
        assert read_run_file(results_of(ended) / "run.json").run.cases.keys() == {*left}
        # The page imports none of the project either.
        assert (results_of(ended) / "report.html").exists()


def installed(gate, **inputs):
    """Run the step that installs; return its last command, and the constraints."""
    ended = gate.run(step="Install the gate", **inputs)
    assert ended.code == 0, ended.errors
    file = gate.sandbox.temp / "constraints.txt"
    return ended.lines[-1], file.read_text().splitlines() if file.exists() else []


def test_what_a_project_installs_itself_is_gated_and_not_constrained(gate):
    lines = "# ours\n-r requirements.txt\n\n-e .\npeft @ git+https://g/p\n$(touch hacked)\n"
    words = f"{ROOT} -r requirements.txt -e . peft @ git+https://g/p $(touch hacked)"
    assert installed(gate, install=lines) == (f"python -m pip install {words}", [])
    assert not (gate.project / "hacked").exists()


def test_the_accepted_versions_constrain_what_is_installed_those_of_a_project_its_own(gate):
    command, lines = installed(gate)
    file = gate.sandbox.temp / "constraints.txt"
    assert command == f"python -m pip install --constraint {file} {ROOT}"
    pinned = {Requirement(line).name for line in lines if not line.startswith("#")}
    assert {"peft", "torch", "torchvision", "galore-torch"} <= pinned
    assert not {"peft-regress", "python"} & pinned
    (gate.project / "pyproject.toml").write_text("[tool.peft_regress]\nbaselines = 'data'\n")
    assert installed(gate)[1] == ["# data has no baseline yet"]
    write_entry(gate.project / "data", 1, make_record())
    assert "peft==0.18.1" in installed(gate)[1]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            [("baseline", "peft", "2"), ("baseline", "peft", "3"), ("history", "peft", "4")],
            "peft==3\n",
        ),
        ([("baseline", "peft", "1\n--index-url=x")], "is no package with its version"),
        ([("baseline", "-r x", "1")], "is no package with its version"),
        ([], "has no baseline yet"),
    ],
)
def test_constraints_are_those_of_the_newest_baseline_and_no_option_of_pip(tmp_path, entries, said):
    (tmp_path / "Linux").mkdir()
    for number, (role, name, version) in enumerate(entries):
        run = {"accepted": {"role": role}, "environment": {name: version}}
        (tmp_path / "Linux" / f"000{number}_x.json").write_text(json.dumps({"peft_regress": run}))
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "ci" / "constraints.py", tmp_path],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert said in (done.stderr or done.stdout)
    assert (done.returncode == 0) is said.startswith("peft")
