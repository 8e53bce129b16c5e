"""Options of pytest-benchmark in a project with baselines."""

import re

import pytest
from builders import accept
from stub_measuring import InnerProject

PLAIN = "def test_plain(benchmark):\n    benchmark(int)\n"


@pytest.fixture
def project(stubbed):
    (stubbed.path / "baselines").mkdir()
    return InnerProject(stubbed)


@pytest.mark.parametrize(
    "options",
    [
        ("--benchmark-json=baselines/run.json",),
        ("--benchmark-save=mine", "--benchmark-storage=baselines"),
        ("--benchmark-autosave", "--benchmark-storage=file://baselines"),
    ],
)
def test_pytest_benchmark_does_not_write_into_the_storage(project, options):
    code, out = project.inner(*options)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "lies in the baseline storage" in out
    assert project.log == []


def test_a_run_without_cases_compares_with_what_was_saved(project):
    (project.folder / "test_suite.py").write_text(PLAIN)
    assert project.inner("--benchmark-save=mine")[0] == 0
    code, out = project.inner("--benchmark-compare")
    assert code == 0
    assert "0001_mine.json" in out
    assert "test_plain (NOW)" in out


@pytest.mark.parametrize(
    "more", ["-q", pytest.param("--benchmark-storage=file://baselines", marks=pytest.mark.nightly)]
)
def test_a_run_is_compared_with_the_entry_that_is_named(project, more):
    """A later entry, of single cases, has no times."""
    for name, words in (("run", ()), ("untimed", ("--benchmark-disable", "-k", "r1"))):
        project.inner(f"--regress-save=runs/{name}.json", *words)
        accept(project.folder / "runs" / f"{name}.json", root=project.folder / "baselines")
    before = sorted((project.folder / "baselines").rglob("*"))
    code, out = project.inner("--benchmark-compare=0001", more, "-k", "head")
    assert code == 0
    found = re.findall(r"^test_case\[(\S+)\] \((.*?)\) ", out, re.MULTILINE)
    heads = ("shift/head/tiny", "shift/head/tiny2")
    assert set(found) == {(case, side) for case in heads for side in ("NOW", "0001_peft-0.")}
    assert "machine_info is different" not in out
    assert sorted((project.folder / "baselines").rglob("*")) == before


def test_a_case_is_profiled(project):
    _, out = project.inner("--benchmark-cprofile=tottime", "-k", "head-tiny2 or r4")
    assert "cProfile (time in s)" in out
    assert "FixtureAlreadyUsed" not in out
