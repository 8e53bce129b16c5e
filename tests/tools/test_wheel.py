"""The wheel by itself: installed by uv, in a folder that is no clone."""

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
UV = [sys.executable, "-m", "uv"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run([*UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT])
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def typed(wheel, tmp_path_factory):
    """Return a function that runs a command of the wheel in an empty folder."""
    folder = tmp_path_factory.mktemp("made")
    run([*UV, "venv", "--quiet", "--python", sys.executable, folder / "env"])
    python = folder / "env" / "bin" / "python"
    run([*UV, "pip", "install", "--quiet", "--no-deps", "--python", python, wheel])
    # What it depends on, from here; the wheel comes first.
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    installed = Path(find_spec("torch").origin).parents[1]
    (packages / "zzz_here.pth").write_text(f"{installed}\n")
    (folder / "empty").mkdir()

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [folder / "env" / "bin" / "peft-regress", *words],
            cwd=folder / "empty", check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return call


def run(command) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_holds_the_data_and_their_licences_and_is_small(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    tasks = "peft_regress/catalogue/tasks"
    data = {f"{tasks}/digits.npz", f"{tasks}/digits.md", "peft_regress/devices.toml"}
    assert data | {"peft_regress/catalogue/evidence.json"} <= names
    # ISC: the two libraries of the page.
    assert "License-Expression: Apache-2.0 AND CC-BY-SA-3.0 AND CC-BY-4.0 AND ISC\n" in text
    stated = {line.partition(": ")[2] for line in text.splitlines() if "License-File" in line}
    vendor = "peft_regress/report/page/vendor"
    assert stated == {
        *("LICENSE", f"{tasks}/digits.md", f"{vendor}/d3.LICENSE", f"{vendor}/plot.LICENSE")
    }
    assert not {"mlxtend", "scikit-learn", "scipy"} & {
        line.split()[1].partition(">")[0]
        for line in text.splitlines()
        if line.startswith("Requires-Dist") and "extra" not in line
    }
    assert wheel.stat().st_size < 3_000_000


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("list", 0, "shift/lora-r4/resnet18"),
        ("cost --architecture shufflenet_v2_x0_5 --method lora --rank 4", 0, "forward_flops"),
        ("history", 3, "a checkout of"),
        ("report --html page.html", 3, "a checkout of"),
        ("compare 0004 0007", 2, "pytest SUITE --regress-save"),
        ("accept run.json --reason x", 3, "pytest SUITE --regress-save"),
        ("explain 0004 0007 shift/dora-r4/resnet18", 3, "pytest SUITE --regress-save"),
        ("sources --check", 3, "a checkout of"),
        ("upgrade peft==0.20.0 --cases shift/head/resnet18", 3, "a checkout of"),
        ("bisect peft --good 0.19.0 --bad 0.20.0 --case shift/head/resnet18", 3, "a checkout of"),
        (f"time {sys.executable} {sys.executable} --cases shift/head/resnet18", 3, "a checkout of"),
        ("init", 0, "wrote gates/cases.py"),
    ],
)
def test_outside_a_clone_a_command_works_or_says_how_to_get_what_it_needs(typed, words, code, said):
    done = typed(*words.split())
    assert said in done.stdout + done.stderr
    assert done.returncode == code
