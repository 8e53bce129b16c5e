"""Run the script of a workflow's step as GitHub's runner does, with stand-ins for some commands.

`gh`, `git` and what `python -m` installs, builds or measures are stand-ins, which record their
arguments and give the answers that a test states. Everything else is real: the shell, the tools of
this project, and `peft-regress`.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace

from workflow_files import ROOT

SHELLS = {
    # What GitHub runs for `shell: bash`, and for no shell at all.
    "bash": ("bash", "--noprofile", "--norc", "-eo", "pipefail"),
    None: ("bash", "-e"),
}

_STAND_IN = """#!{python} -I
import json, os, pathlib, shutil, sys
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
line = " ".join([name, *words])
is_module = words[:1] == ["-m"] and words[1] in {modules!r}
real = (name == "python" and not is_module) or name == "peft-regress"
answers = json.loads(pathlib.Path({answers!r}).read_text())
answer = next((one for one in answers if one["start"] and line.startswith(one["start"])), None)
with open({calls!r}, "a") as calls:
    calls.write(json.dumps([name, *words]) + "\\n")
if answer is None and real:
    module = ["-m", "peft_regress"] if name == "peft-regress" else []
    os.execv({python!r}, [{python!r}, *module, *words])
if words[:2] == ["-m", "venv"]:
    programs = pathlib.Path(words[2], "bin")
    programs.mkdir(parents=True, exist_ok=True)
    for program in ("python", "peft-regress"):
        shutil.copy(pathlib.Path(sys.argv[0]).parent / program, programs / program)
for path, text in (answer or {{"files": {{}}}})["files"].items():
    path = pathlib.Path(words[words.index(path) + 1] if path in words else path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
print((answer or {{"output": ""}})["output"], end="")
sys.exit((answer or {{"code": 0}})["code"])
"""
_NAMES = ("python", "peft-regress", "gh", "git")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a stand-in does for a command line that begins like this."""

    start: str
    code: int = 0
    output: str = ""
    files: dict[str, str] = field(default_factory=dict)
    """Files that it writes: text by path, or by the option that names the path."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a script ended, and what it left."""

    code: int
    output: str
    errors: str
    calls: list[list[str]]
    outputs: dict[str, str]
    """What it wrote to GITHUB_OUTPUT."""
    summary: str

    @property
    def lines(self):
        return [" ".join(call) for call in self.calls]


def run_script(temp, text, shell, **how):
    """Run a script in the temporary folder of a runner, as GitHub does."""
    for left in ("output", "summary"):
        (temp / left).write_text("")
    script = temp / "script.sh"
    script.write_text(text)
    command = (*SHELLS[shell], str(script))
    done = subprocess.run(command, capture_output=True, check=False, text=True, **how)
    written = (temp / "output").read_text().splitlines()
    return Ended(
        code=done.returncode,
        output=done.stdout,
        errors=done.stderr,
        calls=[],
        outputs=dict(line.split("=", 1) for line in written),
        summary=(temp / "summary").read_text(),
    )


class StepSandbox:
    """A runner's folders, in which one script is run."""

    def __init__(self, folder, *, modules=("build", "pip", "pytest", "tox", "twine", "venv")):
        self.workspace, self.temp = folder / "workspace", folder / "temp"
        self.programs = folder / "programs"
        for made in (self.workspace, self.temp, self.programs):
            made.mkdir()
        self.variables = {}
        """What GitHub says of the event."""
        self.answers = folder / "answers"
        self.calls = folder / "calls"
        text = _STAND_IN.format(
            python=sys.executable, answers=str(self.answers), calls=str(self.calls), modules=modules
        )
        for name in _NAMES:
            program = self.programs / name
            program.write_text(text)
            program.chmod(0o755)

    def check_out(self, *names):
        for name in names:
            (self.workspace / name).symlink_to(ROOT / name)

    def run(self, script, *, context=None, answers=()):
        """Run a script; `context` has the values of its expressions, such as `matrix.shard`."""
        self.answers.write_text(json.dumps([vars(answer) for answer in answers]))
        self.calls.write_text("")
        environment = self._environment(script, context or {})
        how = {"cwd": self.workspace, "env": environment}
        ended = run_script(self.temp, script.text, script.shell, **how)
        calls = [json.loads(line) for line in self.calls.read_text().splitlines()]
        return replace(ended, calls=calls)

    def _environment(self, script, context):
        own = {name: replaced(str(text), context) for name, text in script.variables.items()}
        return {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "HOME": str(self.temp),
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": "0",
            "PYTHONWARNINGS": "ignore",
            "GITHUB_BASE_REF": "",
            "GITHUB_ACTION_PATH": str(ROOT / ".github" / "actions" / "gate"),
            "GITHUB_OUTPUT": str(self.temp / "output"),
            "GITHUB_STEP_SUMMARY": str(self.temp / "summary"),
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(self.temp),
            **{name: os.environ[name] for name in ("COLUMNS",) if name in os.environ},
            **self.variables,
            **own,
        }


def replaced(text, context):
    """Replace each `${{ a.b }}` by its value; a name without a value is an error."""

    def value(match):
        name = match[1]
        if name not in context:
            message = f"the test states no value of {name}"
            raise KeyError(message)
        return context[name]

    return re.sub(r"\$\{\{ *(.*?) *\}\}", value, text)
