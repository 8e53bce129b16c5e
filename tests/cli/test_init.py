"""`peft-regress init`: a first suite that runs at once, and is judged after one accept."""

import base64
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata

# An inner run forgets what it imports, and some libraries cannot be imported twice.
import peft
import pytest
import torch.export
import yaml
from command_words import check_command

from peft_regress.cli import init
from peft_regress.overlay.pip import PipError, Planned

CASE = "digits/lora-r4/small"
WRITTEN = (
    "pyproject.toml",
    "gates/__init__.py",
    "gates/cases.py",
    "gates/test_gates.py",
    ".github/workflows/gate.yml",
)


@pytest.fixture
def folder(tmp_path, monkeypatch, clean_registry):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_suite_is_red_then_accepted_then_green(pytester, command):
    root = pytester.path
    code, out, _ = command("init")
    assert code == 0
    assert [name for name in WRITTEN if f"wrote {name}" in out] == [*WRITTEN]
    assert "1. pytest gates --regress-save runs/first.json" in out

    def run(*arguments):
        # Untimed, since a busy machine would be slower than the baseline.
        return pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "--benchmark-disable", "gates", *arguments
        )

    first = run("--regress-save", "runs/first.json")
    assert first.ret == 1
    first.stdout.fnmatch_lines(
        [
            "what to type:",
            "  if they are right, let them judge later runs:",
            "*peft-regress accept runs/first.json --reason *",
            "  from then on, a case that gets worse fails:",
            "*pytest gates",
        ]
    )
    assert command("list")[1].endswith(f"\n{CASE}\n")
    assert command("accept", "runs/first.json", "--reason", "first numbers")[0] == 0
    second = run("--regress-save", "runs/second.json")
    assert second.ret == 0
    assert "no regression (1 unchanged; 1 repeats the baseline)" in second.stdout.str()
    # Every command takes the case like a built-in one, also from a folder below.
    pytester.mkdir("below")
    pytester.mkdir(".git")
    for words in (
        ("compare", "../baselines", "../runs/second.json"),
        ("compare", "0001", "../runs/second.json"),
        ("explain", "0001", "../runs/second.json", CASE),
        ("history", "../runs/second.json", "--cases", "digits/*"),
        ("report",),
        ("report", "--html", "page.html"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root / "below")
            code, out, err = command(*words)
        assert code == 0, (words, err)
        assert re.search(r"^$|digits|1 case|unchanged", out), words
    page = (root / "below" / "page.html").read_text()
    (data,) = re.findall(r">\s*([A-Za-z0-9+/=]{400,})\s*<", page)
    assert CASE in gzip.decompress(base64.b64decode(data)).decode()
    # It learns with each seed. If it did not, budget and accuracy would fail.
    record = json.loads((root / "runs/first.json").read_text())["peft_regress"]["cases"][CASE]
    assert min(record["metrics"]["accuracy"]["samples"]) > 0.75
    for owner, name, broken in (
        (peft.tuners.lora.Linear, "forward", lambda adapted, inputs: adapted.base_layer(inputs)),
        (torch.optim.AdamW, "step", lambda optimizer, closure=None: None),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, broken)
            run().stdout.fnmatch_lines(["  budget score: 8*", "  accuracy: 8*"])


@pytest.mark.slow
def test_a_first_run_without_a_file_says_how_to_write_one(pytester, command):
    command("init")
    # With benchmarks on, pytest-benchmark warns about xdist at the very end; in this suite that is
    # an error, which leaves the inner run's log file open.
    done = pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning", "--benchmark-disable", "gates"
    )
    done.stdout.fnmatch_lines(
        ["  first run: write these numbers to a file:", "*pytest gates --regress-save run.json"]
    )


TABLE = '[tool.peft_regress]\ncases = ["gates.cases:GATES"]\nbaselines = "baselines"\n'


@pytest.mark.parametrize(
    "before",
    [
        "[project]\nname = 'mine'",
        "[build-system]\nbuild-backend = 'hatchling.build'\n",
        "[project]\nname = 'mine'\n[tool.setuptools]\npackages = ['mine']\n",
    ],
)
def test_settings_go_after_what_pyproject_holds(folder, command, before):
    (folder / "pyproject.toml").write_text(before)
    code, out, _ = command("init")
    assert (code, "added [tool.peft_regress] to pyproject.toml" in out) == (0, True)
    text = (folder / "pyproject.toml").read_text()
    assert text.removeprefix(before).lstrip("\n") == TABLE


def test_init_says_that_setuptools_needs_to_be_told_the_packages(folder, command):
    (folder / "pyproject.toml").write_text("[project]\nname = 'mine'\nversion = '1'\n")
    assert "add your packages to [tool.setuptools] in pyproject.toml: " in command("init")[1]


def test_pip_can_install_a_new_project_beside_its_baselines(folder, command):
    for name in ("mine", "baselines", "runs"):
        (folder / name).mkdir()
    (folder / "mine" / "__init__.py").touch()
    command("init")
    make = "import setuptools.build_meta as m; print(m.build_wheel('.ship'))"
    made = subprocess.run([sys.executable, "-c", make], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


GIT = {"vcs": "git", "commit_id": "c0ffee"}
FILE = "https://files/peft_regress-1.2-py3-none-any.whl"


@pytest.mark.parametrize(
    ("origin", "released", "requirement"),
    [
        (None, {"url": FILE, "digest": "5a"}, f"peft-regress @ {FILE}#sha256=5a"),
        (None, {"url": FILE.replace("//", "//me:****@"), "digest": "5a"}, ""),
        (None, None, ""),
        (
            {"url": "https://host/a", "vcs_info": GIT},
            None,
            "peft-regress @ git+https://host/a@c0ffee",
        ),
        (
            {"url": "https://host/a.whl", "archive_info": {}},
            None,
            "peft-regress @ https://host/a.whl",
        ),
        ({"url": "file:///home/me/a", "dir_info": {}}, None, ""),
        ({"url": "file:///home/me/a", "vcs_info": GIT}, None, ""),
        ({"url": "file://HERE/gate/a.whl", "archive_info": {}}, None, "./gate/a.whl"),
        ({"url": "file://HERE", "dir_info": {}}, None, ""),
    ],
)
def test_the_workflow_installs_the_project_and_the_gate_and_runs_the_suite(
    folder, command, monkeypatch, *, origin, released, requirement
):
    if origin:
        origin = {**origin, "url": origin["url"].replace("HERE", str(folder))}

    def planned(requirements, _, *, only_these):
        assert (requirements, only_these) == (["peft-regress==1.2"], True)
        if released is None:
            raise PipError("peft-regress", "no such release")
        return [Planned(name="peft-regress", version="1.2", source="", **released)]

    class Installed(metadata.Distribution):
        def read_text(self, filename):
            if filename == "direct_url.json":
                return None if origin is None else json.dumps(origin)
            return "Name: peft-regress\nVersion: 1.2\n"

        def locate_file(self, path):
            raise NotImplementedError

    monkeypatch.setattr(init, "distribution", lambda _: Installed())
    monkeypatch.setattr(init, "plan", planned)
    out = command("init")[1]
    assert ("put into GATE where CI can install" in out) is (requirement == "")
    job = yaml.safe_load((folder / ".github/workflows/gate.yml").read_text())["jobs"]["gate"]
    scripts = [step["run"] for step in job["steps"] if "run" in step]
    (install,) = (step for step in job["steps"] if "pip install" in step.get("run", ""))
    words = f'python() {{ printf "%s\\n" "$@"; }}\n{install["run"]}'
    done = subprocess.run(
        ("bash", "-e", "-c", words),
        env={**os.environ, **install["env"]},
        capture_output=True,
        text=True,
        check=False,
    )
    if requirement:
        assert done.stdout.splitlines() == ["-m", "pip", "install", ".", requirement]
    else:
        assert done.returncode
        assert "put into GATE of gate.yml where pip can get peft-regress" in done.stderr
    assert any(script.startswith("python -m pytest gates ") for script in scripts)
    commands = [shlex.split(script)[1:] for script in scripts if script.startswith("peft-regress")]
    assert [words[0] for words in commands] == ["compare", "report"]
    page = check_command(commands[1])["page"]
    kept = next(step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert str(page).startswith(f"{kept['with']['path']}/")


ENTRIES = "/baselines/**/*.json -diff linguist-generated\n"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (".gitignore", None, "/runs/\n/baselines/.lock\n"),
        (".gitignore", "*.pyc", "*.pyc\n/runs/\n/baselines/.lock\n"),
        (".gitignore", "/runs/\n", "/runs/\n/baselines/.lock\n"),
        (".gitignore", "/baselines/.lock\n/runs/\n", "/baselines/.lock\n/runs/\n"),
        (".gitattributes", None, ENTRIES),
        (".gitattributes", "*.png binary\n", f"*.png binary\n{ENTRIES}"),
    ],
)
def test_git_ignores_run_files_and_the_lock_and_shows_no_entry(
    folder, command, name, before, after
):
    if before is not None:
        (folder / name).write_text(before)
    code, out, _ = command("init")
    assert code == 0
    assert (folder / name).read_text() == after
    assert (name in out) == (before != after)


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_is_overwritten_and_then_nothing_is_written(folder, command, name):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[tool.peft_regress]\n")
    code, out, err = command("init")
    assert (code, out) == (2, "")
    assert name in err
    assert [file for file in folder.rglob("*") if file.is_file()] == [path]
    assert path.read_text() == "[tool.peft_regress]\n"
