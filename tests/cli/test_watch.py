"""`peft-regress watch` as it is typed."""

import json
import os
import subprocess
import sys

import pytest
from fake_interpreters import all_gone, wait_until

from peft_regress.cli.main import main
from peft_regress.measure.scripts import watching as process

TRAIN = """
import sys
import torch
print("starts", *sys.argv[1:])
torch.manual_seed(0)
net = torch.nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.5)
for _ in range(100):
    net(torch.ones(3, 4)).sum().backward()
    opt.step()
    opt.zero_grad()
"""


@pytest.fixture
def watch(tmp_path, monkeypatch, capsys):
    """Return a function that watches in this process, and returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        with pytest.raises(SystemExit) as stopped:
            main(["watch", *words])
        return int(stopped.value.code or 0), *capsys.readouterr()

    return run


@pytest.mark.slow
def test_a_script_is_watched_as_it_is_with_its_arguments(tmp_path):
    (tmp_path / "train.py").write_text("open('log.txt', 'w').close()\n" + TRAIN)
    command = [sys.executable, "-m", "peft_regress", "watch", "train.py", "--size", "3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "starts --size 3" in done.stderr
    assert done.stdout.startswith("train.py --size 3: 4 optimizer steps of SGD on Linear\n")
    assert "What trains: 10 of 10 parameters" in done.stdout
    assert "forward_flops" in done.stdout
    assert "files that the script wrote: log.txt\n" in done.stdout


def test_a_module_is_watched_and_told_as_json(watch, tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()
    (tmp_path / "pkg" / "train.py").write_text("open('log.txt', 'w').close()\n" + TRAIN)
    _, out, _ = watch("--format", "json", "--steps", "2", "-m", "pkg.train")
    found = json.loads(out)
    assert (len(found["steps"]), found["written"]) == (2, ["log.txt"])
    # Linear: 3 items, 4 inputs, 2 outputs; a multiply-add is 2 FLOPs.
    assert found["costs"]["forward_flops"] == 2 * 3 * 4 * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "words", "message"),
    [
        ("os._exit(7)", (), "ScriptEnded: it ended with exit code 7, after 2 of 4 steps"),
        ("sys.exit()", (), "ScriptEnded: it ended with exit code 0, after 2 of 4 steps"),
        ("time.sleep(600)", ("--time-limit=30",), "it was still running after 30 seconds, after 2"),
        ("break", ("--steps=2", "--until=evaluation"), "before the evaluation that until= asks"),
        ("net.weight.data.fill_(float('inf'))", (), "the loss is inf in step 3"),
    ],
)
def test_a_script_that_ends_too_early_shows_what_it_did_and_why_it_is_no_case(
    watch, tmp_path, ending, words, message
):
    text = TRAIN.replace("for _ in", "import os, time\nfor at in")
    (tmp_path / "train.py").write_text(f"{text}    if at == 1:\n        {ending}\n")
    code, out, _ = watch("--format=json", *words, "train.py")
    assert code == 0
    found = json.loads(out, parse_constant=pytest.fail)
    assert len(found["steps"]) >= 2
    _, out, _ = watch(*words, "train.py")
    assert message in " ".join(out.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("print('done')", ("train.py",), "took no optimizer step: it ended with exit code 0"),
        ("raise KeyError('lr')", ("train.py",), "it ended by KeyError: 'lr'"),
        (
            f"from peft_regress.measure.scripts import watcher\nwatcher.numbers_of = None\n{TRAIN}",
            ("train.py",),
            "train.py: the watcher failed in an optimizer step: TypeError",
        ),
        ("import time; time.sleep(60)", ("--time-limit=3", "train.py"), "running after 3"),
        (None, ("train.py",), "no such script: train.py"),
        (None, ("-m", "torch.distributed.run"), "watch the script that it starts"),
        ("", ("train.py", "\udcff"), "\\udcff: is not UTF-8; rename it"),
        ("", ("--env", "A", "train.py"), "--env 'A' is not NAME=VALUE"),
    ],
)
def test_a_script_without_a_step_is_an_error_that_says_why(watch, tmp_path, text, words, message):
    if text is not None:
        (tmp_path / "train.py").write_text(text)
    code, _, said = watch(*words)
    assert code == 2
    assert message in " ".join(said.split())


@pytest.mark.parametrize(
    ("most", "told"), [(9, ("log.txt", "logs/2.txt", "out/")), (6, ("log.txt", "out/")), (5, ())]
)
def test_the_files_that_a_script_writes_are_named(tmp_path, monkeypatch, most, told):
    """The folder has six files and folders to look at, and one more in `logs`."""
    monkeypatch.setattr(process, "_MOST_FILES", most)
    for folder in ("logs", "venv", ".cache", "__pycache__"):
        (tmp_path / folder).mkdir()
    for name in ("log.txt", "a.journal", "logs/1.txt", "kept.txt", "train.py", "venv/pyvenv.cfg"):
        (tmp_path / name).write_text("1")
        os.utime(tmp_path / name, (0, 0))  # two changes in a moment may have the same time
    (tmp_path / "link").symlink_to(tmp_path / "logs")
    before = process._stamps_below(tmp_path)
    (tmp_path / "out" / "deep").mkdir(parents=True)
    for folder in ("logs", "venv", ".cache", "__pycache__"):
        (tmp_path / folder / "2.txt").write_text("2")
    for name in ("log.txt", "a.journal", "out/deep/1.txt"):
        (tmp_path / name).write_text("2")
    assert process._written(tmp_path, before) == told


@pytest.mark.slow
def test_a_flood_of_output_is_no_matter(watch, tmp_path):
    flood = "import sys\nfor _ in range(30):\n    sys.stdout.write('x' * 1_000_000)\n"
    (tmp_path / "train.py").write_text(flood + TRAIN)
    assert "4 optimizer steps" in watch("train.py")[1]


NAPS = """
import json, os, subprocess, sys, time
daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
seen = {"pids": [os.getpid(), daemon.pid], "variables": dict(os.environ)}
with open("seen.part", "w") as file:
    json.dump(seen, file)
os.rename("seen.part", "seen.json")
"""
GATES = """
import pytest
from peft_regress import Script, case_params
GATES = [Script("toy/full/net", "train.py")]
@pytest.mark.parametrize("case", case_params())
def test_gate(case, peft_regress):
    peft_regress(case)
"""


@pytest.mark.slow
def test_a_daemon_of_a_script_holds_nothing_up(watch, tmp_path):
    (tmp_path / "train.py").write_text(NAPS + TRAIN)
    code, out, _ = watch("train.py")
    assert code == 0
    assert "4 optimizer steps" in out
    assert all_gone(json.loads((tmp_path / "seen.json").read_text())["pids"])


@pytest.mark.slow
def test_a_script_ends_with_any_command_and_sees_the_same_variables(tmp_path):
    """`measure` has a worker between; here all are killed, in another test also asked to end."""
    seen = {}
    for name, words in {
        "watch": ("peft_regress", "watch", "train.py"),
        "gates": ("pytest", "-p", "no:cacheprovider", "test_gates.py"),
        "measure": ("peft_regress", "measure", "--save", "run.json"),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train.py").write_text(NAPS + "time.sleep(600)\n")
        (folder / "test_gates.py").write_text(GATES)
        (folder / "pyproject.toml").write_text(
            '[tool.peft_regress]\ncases = ["test_gates:GATES"]\nbaselines = "data"\n'
        )
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": "-q", "PWD": str(folder)}
        with subprocess.Popen([sys.executable, "-m", *words], cwd=folder, env=env) as command:
            wait_until((folder / "seen.json").exists)
            command.kill()
        seen[name] = json.loads((folder / "seen.json").read_text())
        assert all_gone(seen[name]["pids"])
        for other in ("PEFT_REGRESS_PROCESS", "PYTHONPATH", "PWD"):
            seen[name]["variables"].pop(other)
    assert seen["gates"]["variables"] == seen["measure"]["variables"] == seen["watch"]["variables"]
