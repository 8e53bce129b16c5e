"""The workflows and the action of this repository, parsed."""

import configparser
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
ACTION = ROOT / ".github" / "actions" / "gate" / "action.yml"


def read(path):
    # YAML 1.1 reads the key `on` as true.
    document = yaml.safe_load(path.read_text())
    return {("on" if key is True else key): value for key, value in document.items()}


def workflow(name):
    return read(ROOT / ".github" / "workflows" / f"{name}.yml")


def jobs():
    return {
        (path.stem, name): job for path in WORKFLOWS for name, job in read(path)["jobs"].items()
    }


@dataclass(frozen=True, kw_only=True)
class Script:
    """A step that runs a script: where it stands, its text, its shell and its variables."""

    name: str
    """`workflow/job/step`, or `action/gate/step`."""
    text: str
    shell: str | None
    variables: dict[str, str]
    """Of the workflow, the job and the step, with expressions not yet replaced."""


def scripts():
    """Return {name: script} of every step that runs one."""
    found = [
        (f"{path.stem}/{job_name}", step, document, job)
        for path in WORKFLOWS
        for document in [read(path)]
        for job_name, job in document["jobs"].items()
        for step in job.get("steps", [])
    ]
    found += [("action/gate", step, {}, {}) for step in read(ACTION)["runs"]["steps"]]
    made = [
        Script(
            name=f"{place}/{step.get('name', '')}",
            text=step["run"],
            shell=step.get("shell", document.get("defaults", {}).get("run", {}).get("shell")),
            variables={**document.get("env", {}), **job.get("env", {}), **step.get("env", {})},
        )
        for place, step, document, job in found
        if "run" in step
    ]
    assert len({script.name for script in made}) == len(made), "two scripts have one name"
    return {script.name: script for script in made}


def tox():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini")
    return parser
