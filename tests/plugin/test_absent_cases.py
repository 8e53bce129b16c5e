"""A run that should have cases and has none fails; what is stored is not overwritten."""

import pytest
from builders import LORA, make_record
from projects import Suite

PLAIN = "def test_plain():\n    pass\n"
SUITE = """
import pytest

@pytest.mark.case(task="own", method="x", architecture="net")
def test_case(peft_regress):
    raise AssertionError("measured")
"""


@pytest.fixture
def project(pytester, outside_xdist):
    """A project with an entry, whose files of cases were renamed beside ordinary tests."""
    suite = Suite(pytester)
    suite.store(1, make_record(LORA))
    files = ("benchmarks/test_paper.py", "benchmarks/bench_cases.py", "tests/test_unit.py")
    return suite.write({"pytest.ini": "[pytest]\n", **dict.fromkeys(files, PLAIN)})


def run(project, *arguments):
    code, out, err = project.pytest(*arguments)
    return code, " ".join((out + err).split())


SAID = "no test with a case was collected, but baselines has baselines"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ((), 1),
        (("tests", "benchmarks"), 1),
        (("-k", "plain"), 1),
        (("tests/test_unit.py",), 0),
        (("tests/test_unit.py::test_plain",), 0),
        (("--ignore=benchmarks",), 0),
        (("--regress-off",), 0),
        (("--collect-only",), 0),
    ],
)
def test_a_run_without_a_case_fails_beside_baselines_unless_it_asks_for_something_else(
    project, asked, code
):
    found, out = run(project, *asked)
    assert (found, SAID in out) == (code, code == 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--regress-off", "--regress-strict"), "drop one of them"),
        (("--regress-off", "--regress-full"), "--regress-off leaves nothing"),
        (("-o", "regress_suites=tests bench"), "bench is no folder; name folders of tests with"),
    ],
)
def test_what_contradicts_itself_is_wrong_use(project, options, message):
    code, out = run(project, *options)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert message in out


@pytest.mark.parametrize(
    ("asked", "ini", "code"),
    [
        (("tests",), "regress_suites = benchmarks", 0),
        (("tests/deep",), "regress_suites = benchmarks", 0),
        (("benchmarks",), "regress_suites = benchmarks", 1),
        (("benchmarks/deep",), "regress_suites = benchmarks", 1),
        ((), "regress_suites = benchmarks", 1),
        ((), "regress_suites = benchmarks\ntestpaths = tests", 0),
        ((), "testpaths = tests", 1),
    ],
)
def test_the_folders_of_cases_can_be_named(project, asked, ini, code):
    deep = dict.fromkeys(("tests/deep/test_tes.py", "benchmarks/deep/test_ben.py"), PLAIN)
    project.write({"pytest.ini": f"[pytest]\n{ini}\n", **deep})
    assert run(project, *asked)[0] == code


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_folder_of_that_name_without_an_entry_is_none_of_the_gate_s(project, content):
    entry = next((project.folder / "baselines").rglob("*.json"))
    entry.unlink()
    if content is not None:
        (entry.parent / "results.json").write_text(content)
    code, out = run(project)
    assert (code, SAID in out) == (0, False)


def test_under_regress_off_a_case_is_skipped_and_said_to_be(project):
    project.write({"benchmarks/test_cases.py": SUITE})
    code, out = run(project, "--regress-off", "-rs")
    assert code == 0
    assert "1 skipped" in out
    assert "--regress-off" in out.partition("short test summary")[2]
    assert "= peft_regress =" not in out


@pytest.mark.parametrize("option", ["save", "summary"])
@pytest.mark.parametrize(
    "name", ["baselines/new.json", "linked/x/0001_y.json", "tests/../baselines"]
)
def test_nothing_is_written_into_the_storage(project, option, name):
    (project.folder / "linked").symlink_to(project.folder / "baselines")
    project.write({"benchmarks/test_cases.py": SUITE})
    code, out = run(project, f"--regress-{option}={name}")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert f"--regress-{option} " in out
    assert "lies in the baseline storage" in out
    assert "measured" not in out
