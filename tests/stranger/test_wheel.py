"""The wheel by itself, in a folder that is no clone."""

import sys
import zipfile

import pytest
from strangers import Stranger

pytestmark = pytest.mark.slow


def test_it_holds_the_data_and_their_licences_and_is_small(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    tasks = "peft_regress/catalogue/tasks"
    data = {f"{tasks}/digits.npz", f"{tasks}/digits.md", "peft_regress/project/devices.toml"}
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


@pytest.fixture(scope="module")
def typed(tmp_path_factory, environment):
    return Stranger(folder=tmp_path_factory.mktemp("empty"), environment=environment)


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
    printed = typed.type("peft-regress", *words.split(), code=code)
    assert said in printed
    assert "Traceback" not in printed
