"""pytest on a project's own cases: where settings are found, shards, workers, globs, refusals."""

import re

import pytest
from projects import Suite

from peft_regress.runs.run_file import read_run_file

CASES = """\
import torch
from peft_regress import FineTune

def build():
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))

def load():
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    labels = (inputs[:, 0] > 0).long()
    return (inputs[:32], labels[:32]), (inputs[32:], labels[32:])

def case(name, adapter):
    parts = dict(model=build, data=load, adapter=adapter, also_train=["2"])
    return FineTune(name, **parts, steps=4, batch=8)

GATES = [
    case("toy/head/one", "head"),
    case("toy/full/one", "full"),
    case("toy/lora-r1/two", "lora-r1"),
]
"""
SUITE = """\
import pytest
from peft_regress import case_params
{more}
@pytest.mark.parametrize("case", case_params({given}))
def test_gate(case, peft_regress):
    peft_regress(case)
"""
TABLE = '[tool.peft_regress]\ncases = ["toy_gates:GATES"]\nbaselines = "data"\n'
IDS = ["toy/full/one", "toy/head/one", "toy/lora-r1/two"]


class Toy(Suite):
    """A project with settings at its top and the tests in a package below."""

    def __init__(self, pytester):
        super().__init__(pytester)
        self.write({"toy_gates.py": CASES, "pyproject.toml": TABLE})
        self.tests = self.folder / "packages" / "one"
        self.write_tests()

    def write_tests(self, *, given="", more=""):
        self.write({"packages/one/test_toy.py": SUITE.format(given=given, more=more)})

    def run(self, *arguments):
        saving = f"--regress-save={self.folder / 'run.json'}"
        return self.pytest("-W", "ignore::DeprecationWarning", saving, *arguments)


@pytest.fixture
def suite(pytester, outside_xdist):
    return Toy(pytester)


@pytest.mark.parametrize("workers", [(), pytest.param(("-n", "2"), marks=pytest.mark.nightly)])
def test_the_cases_of_the_settings_are_measured_and_judged_by_their_storage(
    suite, command, workers
):
    """From a folder below: pytest and the commands find the same storage."""
    (suite.folder / ".git").mkdir()
    first = suite.run(*workers)
    assert first.code == 1
    assert sorted(suite.saved().cases) == IDS
    assert suite.saved().selection.complete
    with_code = [record for record in suite.saved() if str(record.own_code).startswith("sha256:")]
    assert len(with_code) == len(IDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(suite.tests)
        assert command("accept", suite.folder / "run.json", "--reason", "first")[0] == 0
        assert list((suite.folder / "data").glob("*/0001_*.json"))
        done = suite.run(*workers)
        assert done.code == 0, done.out
        assert "no regression (3 unchanged; 3 repeat the baseline)" in done.out
        assert command("compare", "0001", suite.folder / "run.json")[0] == 0
        document = read_run_file(suite.folder / "run.json").document
        assert {timed["stats"]["rounds"] for timed in document["benchmarks"]} <= {1}
        _, said, _ = command("accept", suite.folder / "run.json", "--reason", "the same")
        assert re.search(r"it confirms 0001_\S+ in 3 cases, without anything new", said)
        assert "it judges" not in said
        done = suite.run(*workers, "-k", "head")
        assert ", confirmed by 0002_" in done.out
        assert "(1 unchanged; 1 repeats the baseline)" in done.out
        done = suite.run(*workers, "-k", "head", "--regress-full")
        assert "(1 unchanged)" in done.out


UNSEEDED = """\
import peft
import torch
from torch import nn
net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
net = peft.get_peft_model(net, peft.LoraConfig(r=4, target_modules=["0", "2"]))
optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
log = open("log.txt", "w")
while True:
    net(torch.randn(2, 8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.nightly
def test_a_script_without_a_seed_is_judged_by_all_that_repeats(suite, command):
    cases = "from peft_regress import Script\nGATES = [Script('toy/lora-r4/one', 'train.py')]\n"
    suite.write({"toy_gates.py": cases})

    def says(script, *lines):
        suite.write({"train.py": script})
        pytest.LineMatcher(suite.run().out.splitlines()).fnmatch_lines(lines)

    says(UNSEEDED, "*files that the script wrote: log.txt*", "INCOMPLETE: * (1 new)")
    assert command("accept", suite.folder / "run.json", "--reason", "first")[0] == 0
    for _ in range(2):
        says(UNSEEDED, "*two runs of the script differ: init*", "no regression (1 unchanged)")
    says(UNSEEDED.replace("r=4", "r=8"), "*trainable_params +100 %*", "REGRESSED*")
    says(UNSEEDED.replace("AdamW", "SGD"), "*optimizer of*", "*AdamW*SGD*", "REGRESSED*")


def test_a_case_that_cannot_be_measured_is_in_error_never_missing_and_not_accepted_unasked(
    suite, command
):
    wrong = 'case("toy/own/one", lambda model: model.nowhere),\n    case("toy/full/one"'
    suite.write({"toy_gates.py": CASES.replace('case("toy/full/one"', wrong)})
    done = suite.run("--regress-cases=*/one")
    shown = " ".join(done.out.split())
    assert done.code == 1
    assert "missing in" not in shown
    assert "new in 3 cases: no accepted baseline has it" in shown
    (failed,) = (one for one in suite.saved() if one.status == "error")
    assert failed.case.id == "toy/own/one"
    assert "the adapter cannot be put on the model" in done.out
    assert failed.status_text.startswith("error (AttributeError: ")
    accept = ("accept", suite.folder / "run.json", "--reason", "first")
    code, _, err = command(*accept)
    assert code == 2
    assert "toy/own/one is in error (" in err
    assert "`--allow-errors toy/own/one`" in err
    assert not list((suite.folder / "data").glob("*/*.json"))


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ("adapter=lambda model: model.nowhere", "error (AttributeError: "),
        ("adapter=lambda model: int('x')", "unsupported (ValueError: "),
        ("data=lambda: {}[0]", "error (KeyError: "),
        ("loss=lambda model, batch: batch.nowhere", "error (AttributeError: "),
    ],
)
def test_wrong_use_that_was_accepted_is_known(suite, command, wrong, status):
    """A case that has a reference is recorded in the words of one that has none."""
    added = f'GATES.append(FineTune("toy/own/one", **{{**PARTS, **dict({wrong})}}))\n'
    parts = "PARTS = dict(model=build, data=load, adapter='full', steps=4, batch=8)\n"
    suite.write({"toy_gates.py": CASES + parts + added})
    suite.run("--regress-cases=toy/own/one")
    (failed,) = suite.saved()
    assert failed.status_text.startswith(status)
    accept = ("accept", suite.folder / "run.json", "--reason", "first")
    assert command(*accept, "--allow-errors", "toy/own/*")[0] == 0
    done = suite.run("--regress-cases=toy/own/one")
    assert "missing in" not in done.out
    assert ("1 known defect" if status.startswith("error") else "1 unchanged") in done.out


@pytest.mark.parametrize("asked", ["", "packages/one", "packages/one/test_toy.py"])
def test_a_project_inside_another_one_has_its_own_settings(suite, monkeypatch, asked):
    inner = suite.folder / "inner"
    inner.mkdir()
    for name in ("toy_gates.py", "pyproject.toml", "packages"):
        (suite.folder / name).rename(inner / name)
    suite.write({"pytest.ini": "[pytest]\n"})
    if not asked:
        monkeypatch.chdir(inner)
    done = suite.run("--collect-only", "-q", *([f"inner/{asked}"] if asked else []))
    assert f"[{IDS[0]}]" in done.out
    assert len(done.out.split("test_toy.py::")) == 1 + len(IDS)


def test_shards_and_globs_narrow_a_run(suite):
    suite.run("--regress-shard=1/2")
    part = suite.saved()
    assert not part.selection.complete
    suite.run("--regress-shard=2/2")
    assert sorted([*part.cases, *suite.saved().cases]) == IDS
    suite.run("--regress-cases=*/one")
    assert sorted(suite.saved().cases) == IDS[:2]
    assert suite.saved().selection.narrowed_by == ["--regress-cases */one"]
    assert suite.saved().selection.not_selected == IDS[2:]


@pytest.mark.parametrize(
    ("option", "table", "message"),
    [
        ("--regress-cases=toy/lora/*", TABLE, "unknown case pattern 'toy/lora/*'"),
        ("--regress-cases=shift/lora-r4/*", TABLE, "choose it with --regress-matrix default"),
        ("-q", f"{TABLE}matrx = 'own'\n", "Did you mean 'matrix'?"),
    ],
)
def test_globs_without_a_match_and_wrong_settings_are_wrong_use(suite, option, table, message):
    suite.write({"pyproject.toml": table})
    done = suite.run(option)
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_suite_without_settings_gives_its_cases_itself(suite):
    (suite.folder / "pyproject.toml").unlink()
    suite.write({"pytest.ini": "[pytest]\npythonpath = .\n"})
    suite.write_tests(given="GATES", more="from toy_gates import GATES")
    done = suite.run("-k", "full")
    assert done.code == 1
    assert sorted(suite.saved().cases) == IDS[:1]
    assert suite.saved().selection.not_selected == IDS[1:]
    assert "--regress-matrix" not in done.out


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("toy_gates.py", "import nowhere\n", "'toy_gates:GATES' does not import: "),
        ("toy_gates.py", "GATES = []\n", "toy_gates:GATES holds no FineTune"),
    ],
)
def test_cases_that_cannot_be_had_are_told_in_one_line_without_a_traceback(
    suite, file, text, message
):
    (suite.folder / file).write_text(text)
    done = suite.run()
    assert done.code == pytest.ExitCode.INTERRUPTED
    lines = done.out.splitlines()
    start = next(i for i, line in enumerate(lines) if "ERROR collecting" in line)
    assert lines[start + 1].startswith(message)
    assert lines[start + 2].startswith("=====")
    assert "Traceback" not in done.out
