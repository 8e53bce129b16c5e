"""Input that the system or a library refuses: one line and exit code 2, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest
from builders import LORA, keep_weights, make_record, make_run, write_run

from peft_regress.baselines.run_adapters import adapters_of_run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a run file and its adapters, a folder of shards and a link to itself."""
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "run.json", tmp_path / "shards" / "a.json"):
        write_run(path, make_run(make_record(LORA)))
        keep_weights(path, make_record(LORA))
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


LONG = "x" * 10_000
REFUSED = [
    ("accept", LONG, "--reason", "r"),
    ("accept", "run.json", "--reason", "r", "--baselines", LONG),
    ("compare", LONG, "run.json"),
    ("compare", "run.json", "run.json", "--save", LONG),
    ("history", LONG),
    ("history", "loop"),
    ("report", "loop"),
    ("report", "run.json", "--html", LONG),
    ("report", "run.json", "--html", "loop/page.html"),
    ("accept", "run.json", "--reason", "r", "--baselines", "loop"),
    ("explain", "loop", "run.json", LORA),
]


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: f"{words[0]}-{words[-1][:9]}")
def test_a_path_that_the_system_refuses_is_one_line(command, here, words):
    code, out, err = command(*words)
    assert code in (
        {3} if words[0] in {"accept", "explain"} and "--baselines" not in words else {2}
    )
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", [b'{"case": "\xff"}', b'{"\xff": 1}', b"[" * 100_000])
def test_an_invalid_byte_in_a_manifest_is_one_line(command, here, content):
    (adapter,) = adapters_of_run(here / "run.json").iterdir()
    (adapter / "stored.json").write_bytes(content)
    code, _, err = command("accept", "run.json", "--reason", "r")
    assert code == 2
    assert "stored.json: is not a manifest of a stored adapter" in err
    assert err.count("\n") == 1
    Path("baselines/sources").mkdir(parents=True)
    Path("baselines/sources/manifest").write_bytes(content)
    code, _, err = command("sources", "--check", "--architecture", "resnet18")
    assert code == 3
    assert "manifest: not a manifest of sources" in err
    assert err.count("\n") == 1


def test_without_torch_a_command_that_needs_it_is_one_line(tmp_path):
    code = """
import sys
sys.modules["torch"] = None
from peft_regress.cli.main import main
for words in (["cost", "--architecture", "resnet18", "--method", "full"], ["sources", "--check"]):
    try:
        main(words)
    except SystemExit as stopped:
        print(stopped.code)
"""
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "2"]
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ModuleNotFoundError: import of torch halted")
    assert second.endswith("Repair or install that package.")
