"""A project's own cases in other interpreters: by import path and id, no pickle."""

import sys
from pathlib import Path

import pytest

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.project.project import current_project
from peft_regress.runner.measurer import CaseRequest, Measurer
from peft_regress.runner.measuring import MeasuringSetup, measure_cases
from peft_regress.runs.own_code import code_of, was_edited
from peft_regress.workers.pool import UnusableEnvironmentError


@pytest.fixture
def suite(project):
    """Return the folder of a first suite, which is the working folder."""
    assert project.run("init").code == 0
    return project.folder


def _measured(folder):
    setup = MeasuringSetup(project=current_project(), baselines=folder / "baselines", jobs=1)
    cases = matrix_cases("own")
    return measure_cases(cases, python=Path(sys.executable), setup=setup, matrix="own")


@pytest.mark.slow
def test_a_real_worker_measures_an_own_case_with_the_bounds_of_the_settings(suite, monkeypatch):
    table = suite / "pyproject.toml"
    rule = '{cases = "digits/*", metric = "peak_bytes", bound = 0.02, reason = "allocator"}'
    table.write_text(f"{table.read_text()}bounds = [{rule}]\n")
    below = suite / "below"
    below.mkdir()
    (suite / ".git").mkdir()
    monkeypatch.chdir(below)
    run = _measured(suite)
    record = run.cases["digits/lora-r4/small"]
    assert (record.status, run.selection.complete) == ("ok", True), record.error
    assert record.metrics["trainable_params"].value == 490
    assert record.own_code == code_of(record.case, current_project())
    assert not was_edited(record, current_project())
    assert record.bounds["peak_bytes"].reason == "allocator"


@pytest.mark.nightly
def test_a_worker_that_cannot_import_the_cases_says_where_and_why(suite):
    cases = suite / "gates" / "cases.py"
    text = cases.read_text()
    matrix_cases("own")  # here they import
    cases.write_text(f"import nowhere\n{text}")
    with pytest.raises(UnusableEnvironmentError) as raised:
        _measured(suite)
    assert "'gates.cases:GATES' does not import" in str(raised.value)
    assert "No module named 'nowhere'" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_worker_that_times_takes_own_cases(suite):
    request = CaseRequest(
        case="digits/lora-r4/small", baselines=str(suite / "baselines"), folder=str(suite)
    )
    stepper = Measurer()
    assert stepper.prepare(request).startswith("sha256:")
    stepper.restart(0)
    assert len(stepper.time_steps(3)) == 3
