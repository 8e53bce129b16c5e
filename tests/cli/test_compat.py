"""The command `compat`: what it prints, how it ends, and what it refuses; the installed peft."""

import contextlib
import itertools
import json
import re
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import saved_adapters
from saved_adapters import save_lora, write_nets

from peft_regress.overlay.overlay import opened_overlay
from peft_regress.project.settings import Pip
from peft_regress.upgrades.compat import base_model
from peft_regress.upgrades.compat import compat as compat_module
from peft_regress.workers.serve import Functions
from peft_regress.workers.worker import RequestRefusedError

pytestmark = pytest.mark.filterwarnings("ignore")
OWN = ("--base", "small_nets:make", "--inputs", "small_nets:inputs")
# Loading seeds the generators and replaces a method of the library: for all threads, here.
_ONE_AT_A_TIME = threading.Lock()


class WorkerHere:
    """Calls functions as a worker does, through JSON; a process would import torch again."""

    is_alive = True
    time_limit = 60.0

    def __init__(self, interpreter="here", packages=None):
        self.interpreter = interpreter
        self.packages = packages or {}
        self._functions = Functions()

    def ask(self, function, request, answer):
        try:
            with _ONE_AT_A_TIME:
                found = self._functions.call(function, msgspec.Raw(msgspec.json.encode(request)))
        except Exception as error:
            text = f"{self.interpreter}: {type(error).__name__}: {error}"
            raise RequestRefusedError(text) from error
        return msgspec.json.decode(msgspec.json.encode(found), type=answer)

    def close(self):
        """Do nothing."""

    kill = close


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_lora(tmp_path_factory.mktemp("saved") / "lora")


@pytest.fixture
def adapter(saved, tmp_path, monkeypatch):
    """Work in a folder with an adapter and the module of its base."""
    folder = tmp_path / "lora"
    folder.mkdir()
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    write_nets(tmp_path)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def releases(monkeypatch):
    """Let the installed release stand for each: what pip would do is tested elsewhere."""

    @contextlib.contextmanager
    def opened_overlay(requirements, _):
        yield SimpleNamespace(python=requirements[0])

    def worker(_, environment):
        python = str(environment.python)
        return WorkerHere(python, {"peft": python})

    monkeypatch.setattr(compat_module, "opened_overlay", opened_overlay)
    monkeypatch.setattr("peft_regress.workers.pool.Seat.worker", worker)


def test_a_release_that_computes_the_same_is_exit_0(command, adapter, releases):
    words = ("compat", "lora", *OWN, "--releases", "0.21.1", "--jobs", "1")
    code, out, err = command(*words)
    assert code == 0, err
    assert out.startswith("LORA adapter lora\n")
    assert re.search(r"^0\.21\.1\s+same\s+0\s+\S+$", out, re.MULTILINE)
    assert out.endswith("NOTHING BREAKS in 1 release (1 same)\n")
    assert "| 0.21.1 | same | 0 |" in command(*words, "--format", "markdown")[1]


def test_json_has_what_was_found_and_another_output_breaks(command, adapter, releases, monkeypatch):
    outputs = base_model.Base.outputs
    calls = itertools.count()

    def other(self, model, **options):
        # The reference is the first adapter, and the next release computes something else.
        is_later = hasattr(model, "peft_config") and next(calls) > 2
        return tuple(one + 10 * is_later for one in outputs(self, model, **options))

    monkeypatch.setattr(base_model.Base, "outputs", other)
    code, out, _ = command(
        "compat", "lora", *OWN, "--releases", "0.22.0", "--saved-by", "0.21.1", "--format", "json"
    )
    shown = json.loads(out)
    assert (code, set(shown)) == (
        1,
        {"schema_version", "exit_code", "adapter", "base", "reference", "counts", "releases"},
    )
    (release,) = shown["releases"]
    assert (release["verdict"], shown["counts"]) == ("other_output", {"other_output": 1})
    assert release["difference"] > 0.1
    assert shown["base"]["name"] == "small_nets:make"


def test_a_base_that_fails_is_wrong_use(command, adapter, releases):
    code, _, err = command(
        "compat", "lora", "--base", "small_nets:broken", "--releases", "1", "--shape", "2,6"
    )
    assert (code, "raised RuntimeError: no weights here" in err) == (2, True)
    code, _, err = command("compat", "lora", "--base", "resnet18", "--releases", "1")
    assert code == 2
    assert "refuses it: ValueError" in err
    assert "Is --base the right model" in err


_SAVE_LOKR = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from peft import LoKrConfig
from saved_adapters import save_adapter
save_adapter(Path("lokr"), LoKrConfig(target_modules=["0"], r=2, alpha=8))
"""


@pytest.mark.nightly
def test_lokr_of_before_0_14_computes_something_else_later(command, adapter):
    """See https://github.com/huggingface/peft/pull/2180: alpha / r was not applied before."""
    with opened_overlay(["peft==0.13.2"], Pip()) as overlay:
        tests = str(Path(saved_adapters.__file__).parent)
        subprocess.run([str(overlay.python), "-c", _SAVE_LOKR, tests], check=True)
    code, out, _ = command(
        "compat", "lokr", *OWN, "--saved-by", "0.13.2", "--releases", "0.13.2,0.14.0",
        "--format", "json",
    )  # fmt: skip
    assert code == 1
    before, after = json.loads(out)["releases"]
    assert (before["verdict"], after["verdict"]) == ("same", "other_output")
    assert after["difference"] > 0.01
