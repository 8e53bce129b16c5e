"""A stranger's machine: the wheel and git, a repository of their own, and what GitHub runs there.

The wheel lies in a virtual environment over the one of the tests, as if its requirements had been
downloaded. Nothing of this checkout can be imported.
"""

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

import yaml
from checkouts import write_backend
from step_sandbox import replaced, run_script
from workflow_files import ACTION, ROOT, read, scripts

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""What makes this machine another kind of machine."""
_PROGRAM = """#!{python}
import sys
from importlib.metadata import entry_points
program = next(iter(entry_points(group="console_scripts", name={name!r})))
sys.exit(program.load()())
"""
_INPUTS = {name: str(one.get("default", "")) for name, one in read(ACTION)["inputs"].items()}


def make_wheel(folder):
    """Build the wheel of this checkout, as `python -m pip wheel` does."""
    words = ("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    subprocess.run((sys.executable, "-m", "pip", *words), check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(folder, *installed):
    """Make an environment with what pip installs, over the packages that the tests have."""
    subprocess.run((sys.executable, "-m", "venv", str(folder)), check=True)
    packages = sysconfig.get_path("purelib", "venv", vars={"base": str(folder)})
    here = Path(packages, "zzz_downloaded.pth")
    here.write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name in ("pytest", "pytest-benchmark"):
        program = folder / "bin" / name
        program.write_text(_PROGRAM.format(python=folder / "bin" / "python", name=name))
        program.chmod(0o755)
    words = ("install", "--quiet", "--no-deps", "--ignore-installed", *map(str, installed))
    if installed:
        subprocess.run((str(folder / "bin" / "python"), "-m", "pip", *words), check=True)
    return folder


@dataclass(kw_only=True)
class Stranger:
    """A repository, its environment, and the folders of a runner of GitHub."""

    folder: Path
    environment: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.repository = self.folder / "repository"
        self.temp = self.folder / "temp"
        for made in (self.repository, self.temp):
            made.mkdir(exist_ok=True)

    def type(self, *words, code=0):
        """Type a command of the environment, and return what it prints; it must end with `code`."""
        how = {"cwd": self.repository, "env": self._environment()}
        done = subprocess.run(words, capture_output=True, check=False, text=True, **how)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def git(self, *words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
        return self.type("git", *who, *words).strip()

    def commit(self, message="a change"):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def _environment(self):
        # As in a terminal of its own: nothing of the tests' pytest and coverage.
        own = ("HOME", "LANG", "TMPDIR", "PIP_INDEX_URL", "PIP_CONFIG_FILE")
        variables = {name: os.environ[name] for name in own if name in os.environ}
        return {
            **variables,
            "PATH": f"{self.environment / 'bin'}:/usr/bin:/bin",
            "PEFT_REGRESS_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "GITHUB_OUTPUT": str(self.temp / "output"),
            "GITHUB_STEP_SUMMARY": str(self.temp / "summary"),
            "GITHUB_WORKSPACE": str(self.repository),
            "GITHUB_BASE_REF": "",
            "RUNNER_TEMP": str(self.temp),
            **self.variables,
        }

    def step(self, text, *, shell="bash", variables=None):
        environment = {**self._environment(), **(variables or {})}
        return run_script(self.temp, text, shell, cwd=self.repository, env=environment)

    def action(self, *names, **inputs):
        """Run steps of the action by name, up to the first one that fails."""
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        context = {f"inputs.{name}": text for name, text in {**_INPUTS, **given}.items()}
        for name in names or ("Install the gate", "Gate the candidate"):
            script = scripts()[f"action/gate/{name}"]
            own = {key: replaced(str(text), context) for key, text in script.variables.items()}
            own["GITHUB_ACTION_PATH"] = str(ACTION.parent)
            ended = self.step(script.text, shell=script.shell, variables=own)
            if ended.code:
                break
        return ended

    def workflow(self, path, **variables):
        """Run the `run:` steps of the only job of a workflow; return how each ended, by its script.

        After one that fails, only those that GitHub always runs.
        """
        document = yaml.safe_load((self.repository / path).read_text())
        (job,) = document["jobs"].values()
        ended, is_red = {}, False
        for step in job["steps"]:
            if "run" not in step or (is_red and step.get("if") != "always()"):
                continue
            own = {**step.get("env", {}), **variables}
            ended[step["run"]] = self.step(step["run"], shell=None, variables=own)
            is_red = is_red or ended[step["run"]].code != 0
        return ended


def write_library(folder, name):
    """Write the sources of an installed package, as its own repository has them."""
    found = distribution(name)
    write_backend(folder, name, found.version, metadata=found.read_text("METADATA"))
    for file in found.files:
        if file.parts[0] == name and file.suffix == ".py":
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(Path(found.locate_file(file)).read_bytes())
