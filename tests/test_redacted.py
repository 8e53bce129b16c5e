"""Secrets and folders of a machine are in no text that is stored."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from functools import partial

import pytest

from peft_regress.imports import told
from peft_regress.measure.invariants.facts import told_of
from peft_regress.measure.scripts.watching import ScriptError, watch_script
from peft_regress.text import model_name, redacted

TOKEN = "hf_" + 34 * "a"


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (f"401 for {TOKEN}", "401 for ***"),
        (f"login({'ghp_' + 36 * 'b'!r})", "login('***')"),
        ("github_pat_" + 30 * "c", "***"),
        ("sk-" + 40 * "d" + " is wrong", "*** is wrong"),
        ("AKIAABCDEFGHIJKLMNOP, ASIAABCDEFGHIJKLMNOP", "***, ***"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("https://me:secret@hub.example/x", "https://***@hub.example/x"),
        ("https://x/y?api_key=0123456789&a=b", "https://x/y?api_key=***&a=b"),
        ('["--token","0123456789","--lr","1e-4"]', '["--token","***","--lr","1e-4"]'),
        ("it says correct horse", "it says ***"),
        ("it says battery staple", "it says ***"),
        ("/home/ada/models/net.pt, '/Users/bob'", "~/models/net.pt, '~'"),
        ("/mnt/ours/me/data.csv: absent (in /mnt/ours/me)", "~/data.csv: absent (in ~)"),
        ("File '/mnt/ours/me/project/gates.py', line 3", "File 'gates.py', line 3"),
        ("(in /mnt/ours/me/project)", "(in .)"),
        ("/mnt/ours/me/project/lib/torch/nn.py", "torch/nn.py"),
        # No folder and no secret of anybody.
        ("/mnt/ours/media/x, s3://bucket/home/x/y", "/mnt/ours/media/x, s3://bucket/home/x/y"),
        ("'X' has no attribute 'hf_device_map_of_modules'",) * 2,
        ("unexpected key backbone.conv1.weight, key=short, a mask-language-modelling-loss",) * 2,
    ],
)
def test_a_stored_text_has_no_secret_and_no_home(monkeypatch, text, stored):
    home = "/mnt/ours/me"
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("MY_API_KEY", "correct horse")
    monkeypatch.setenv("SHORT_KEY", "no")
    monkeypatch.setattr(sys, "path", ["", f"{home}/project", f"{home}/project/lib"])
    assert redacted(text, {"db_password": "battery staple"}) == stored
    assert redacted(stored) == stored


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("org/name-7b.v1", "org/name-7b.v1"),
        ("gpt2", "gpt2"),
        ("/home/ada/models/net/", "net"),
        ("./models/net", "net"),
        ("~/net", "net"),
        ("a/b/c", "c"),
        (r"C:\Users\ada\net", "net"),
    ],
)
def test_a_model_is_named_without_its_folder(path, name):
    assert model_name(path) == name


def test_an_error_loses_its_secrets_before_it_is_cut():
    for length in range(120, 160):
        error = RuntimeError(f"{length * 'x'} {TOKEN}")
        assert "hf_a" not in told(error) + told_of(error)


@pytest.mark.slow
def test_the_last_line_of_a_script_has_no_secret_that_it_was_given(tmp_path):
    (tmp_path / "train.py").write_text("import os\nprint('uses', os.environ['OUR_SECRET'])\n")
    with pytest.raises(ScriptError, match=r"took no optimizer step: .*uses \*\*\*$"):
        watch_script("train.py", folder=tmp_path, env={"OUR_SECRET": "battery staple"})


GATES = """
from pathlib import Path

import torch
from peft import LoraConfig
from torch import nn

from peft_regress import FineTune, Script


def data():
    inputs = torch.arange(64.0).reshape(16, 4) / 64
    return 2 * ((inputs, torch.arange(16) % 2),)


def gone():
    path = Path(__file__).parent.parent / "weights.pt"
    raise RuntimeError(f"{TOKEN} of {path} fails at https://ada:lovelace@hub.example")


def case(id, model):
    config = LoraConfig(
        r=2, target_modules=["0"], base_model_name_or_path=f"{HOME}/models/net"
    )
    return FineTune(id, model=model, data=data, adapter=config, steps=2, batch=4, seeds=1)


GATES = [
    case("toy/lora-r2/net", lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))),
    case("toy/lora-r2/gone", gone),
    Script(
        "toy/head/script", "train.py", steps=2, env={"MY_TOKEN": "of the script"},
        args=["--token", TOKEN, "--out", f"{HOME}/out"],
    ),
]
"""
TRAIN = """
import torch

torch.manual_seed(0)
net = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, foreach=False)
for _ in range(2):
    optimizer.zero_grad()
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()
"""


@pytest.mark.slow
def test_no_secret_and_no_folder_is_in_a_run_an_adapter_or_a_storage(tmp_path):
    home, remote = tmp_path / "lovelace", "https://ada:pass@host.example/ours.git"
    project = home / "project"
    project.mkdir(parents=True)
    gates = f"HOME, TOKEN = {str(home)!r}, {TOKEN!r}\n{GATES}"
    pyproject = '[tool.peft_regress]\ncases = ["gates:GATES"]\n'
    for name, text in (("gates", gates), ("train", TRAIN)):
        (project / f"{name}.py").write_text(text)
    (project / "pyproject.toml").write_text(pyproject)
    env = {**os.environ, "HOME": str(home), "HF_TOKEN": TOKEN}
    run = partial(subprocess.run, cwd=project, env=env, check=False, capture_output=True, text=True)
    program = [sys.executable, "-m", "peft_regress"]
    run(["git", "init", "-q"])
    run(["git", "remote", "add", "origin", remote])
    measured = run([*program, "measure", "--save", "run.json", "--jobs", "1"])
    accepted = run([*program, "accept", "run.json", "--reason", "first", "--allow-errors", "*"])
    assert accepted.returncode == 0, (measured.stderr, accepted.stderr)
    stored = {
        path.relative_to(project): path.read_text(errors="replace")
        for path in project.rglob("*")
        if path.is_file()
        and path.suffix not in {".py", ".pyc", ".toml"}
        and ".git/" not in str(path)
    }
    kinds = {path.name for path in stored}
    assert {"run.json", "adapter_config.json", "current.txt"} <= kinds
    for path, text in stored.items():
        for private in (TOKEN, "lovelace", str(tmp_path), "of the script", socket.gethostname()):
            assert private not in text, path
    cases = json.loads((project / "run.json").read_text())["peft_regress"]["cases"]
    told = "*** of ~/weights.pt fails at https://***@hub.example (gates.py, line 19)"
    assert cases["toy/lora-r2/gone"]["error"]["message"].endswith(told)
    digest = hashlib.sha256(b"of the script").hexdigest()[:12]
    assert cases["toy/head/script"]["settings"]["env"] == f'{{"MY_TOKEN":"sha256:{digest}"}}'
