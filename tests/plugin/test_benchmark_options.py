"""Each option of pytest-benchmark does what it says in a run with cases, or is refused by name."""

from __future__ import annotations

import pytest
from restored import registry_restored
from stub_measuring import StubProject

PLAIN = "def test_plain(benchmark):\n    benchmark(int)\n"


class InnerProject(StubProject):
    """A project with runs in this process."""

    def __init__(self, pytester):
        super().__init__(pytester.path)
        self.pytester = pytester
        (self.root / "baselines").mkdir()

    def inner(self, *arguments):
        with registry_restored():
            done = self.pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
        return int(done.ret), done.stdout.str() + done.stderr.str()


@pytest.fixture
def project(stubbed):
    return InnerProject(stubbed)


ONE_ROUND = "a case has one round for each seed: drop "
REFUSED = {
    "--benchmark-min-rounds=7": f"{ONE_ROUND}--benchmark-min-rounds",
    "--benchmark-max-time=2": f"{ONE_ROUND}--benchmark-max-time",
    "--benchmark-warmup": f"{ONE_ROUND}--benchmark-warmup",
    "--benchmark-skip": "--benchmark-skip measures no case: drop it, or skip the cases with",
    "--benchmark-compare=0099": "--benchmark-compare: '0099' is no file and no entry of",
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_be_done_for_a_case_is_refused_before_anything_is_measured(project, option):
    code, out = project.inner(option)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert REFUSED[option] in out
    assert project.log == []


def test_an_option_of_an_ini_file_is_refused_with_its_place(project):
    (project.root / "pytest.ini").write_text("[pytest]\naddopts = --benchmark-min-time 1\n")
    code, out = project.inner()
    assert code == pytest.ExitCode.USAGE_ERROR
    assert f"{ONE_ROUND}--benchmark-min-time from addopts of pytest.ini" in out


@pytest.mark.parametrize(
    "options",
    [
        ("--benchmark-json=baselines/run.json",),
        ("--benchmark-save=mine", "--benchmark-storage=baselines"),
        ("--benchmark-autosave", "--benchmark-storage=file://baselines"),
    ],
)
def test_nothing_is_saved_into_the_baselines(project, options):
    code, out = project.inner(*options)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert f"{options[-1].partition('=')[0]} " in out
    assert "lies in the baseline storage" in out
    assert project.log == []


@pytest.mark.parametrize("option", ["--benchmark-min-rounds=7", "--benchmark-skip"])
def test_a_run_without_cases_takes_all_options(project, option):
    (project.root / "test_suite.py").write_text(PLAIN)
    assert project.inner(option)[0] == 0


def test_a_run_without_cases_compares_with_what_pytest_benchmark_saved(project):
    (project.root / "test_suite.py").write_text(PLAIN)
    assert project.inner("--benchmark-save=mine")[0] == 0
    code, out = project.inner("--benchmark-compare")
    assert code == 0
    assert "0001_mine.json" in out
    assert "test_plain (NOW)" in out


def test_a_case_is_profiled(project):
    _, out = project.inner("--benchmark-cprofile=tottime", "-k", "head-tiny2 or r4")
    assert "cProfile (time in s)" in out
    assert "FixtureAlreadyUsed" not in out
