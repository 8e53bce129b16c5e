"""Each option of pytest-benchmark does what it says in a run with cases, or is refused by name."""

from __future__ import annotations

import pytest
from stub_measuring import InnerProject

PLAIN = "def test_plain(benchmark):\n    benchmark(int)\n"


@pytest.fixture
def project(stubbed):
    (stubbed.path / "baselines").mkdir()
    return InnerProject(stubbed)


ONE_ROUND = "a case has one round for each seed: drop "
STORED = "lies in the baseline storage"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--benchmark-min-rounds=7",), f"{ONE_ROUND}--benchmark-min-rounds"),
        (("--benchmark-max-time=2",), f"{ONE_ROUND}--benchmark-max-time"),
        (("--benchmark-warmup",), f"{ONE_ROUND}--benchmark-warmup"),
        (
            ("-o", "addopts=--benchmark-min-time=1"),
            f"{ONE_ROUND}--benchmark-min-time from addopts of pytest.ini",
        ),
        (("--benchmark-skip",), "--benchmark-skip measures no case: drop it, or skip the cases"),
        (("--benchmark-compare=0099",), "--benchmark-compare: '0099' is no file and no entry of"),
        (("--benchmark-json=baselines/run.json",), f"baselines/run.json: {STORED}"),
        (("--benchmark-save=mine", "--benchmark-storage=baselines"), STORED),
        (("--benchmark-autosave", "--benchmark-storage=file://baselines"), STORED),
    ],
)
def test_what_cannot_be_done_for_a_case_is_refused_before_anything_is_measured(
    project, options, message
):
    code, out = project.inner(*options)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert message in out
    assert project.log == []


def test_a_run_without_cases_takes_all_options_and_compares_with_what_was_saved(project):
    (project.root / "test_suite.py").write_text(PLAIN)
    assert project.inner("--benchmark-min-rounds=7", "--benchmark-save=mine")[0] == 0
    assert project.inner("--benchmark-skip")[0] == 0
    code, out = project.inner("--benchmark-compare")
    assert code == 0
    assert "0001_mine.json" in out
    assert "test_plain (NOW)" in out


def test_a_case_is_profiled(project):
    _, out = project.inner("--benchmark-cprofile=tottime", "-k", "head-tiny2 or r4")
    assert "cProfile (time in s)" in out
    assert "FixtureAlreadyUsed" not in out
