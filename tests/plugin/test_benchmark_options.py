"""Options of pytest-benchmark in a project with baselines."""

import pytest
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


def test_a_case_is_profiled(project):
    _, out = project.inner("--benchmark-cprofile=tottime", "-k", "head-tiny2 or r4")
    assert "cProfile (time in s)" in out
    assert "FixtureAlreadyUsed" not in out
