"""This repository's storages as pytest-benchmark sees them: accepted entries, with times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from peft_regress.baselines.references import read_references
from peft_regress.baselines.storage import baseline_files
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.runs.run_file import read_run_file

ROOT = Path(__file__).parents[2]
BASELINES = ROOT / "baselines"


@pytest.mark.parametrize("storage", ["baselines", "examples/baselines"])
def test_pytest_benchmark_lists_the_accepted_entries_and_nothing_else(storage):
    command = [sys.executable, "-m", "pytest_benchmark", "--storage", storage, "list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [str(path) for path in baseline_files(ROOT / storage)]


def test_the_entries_that_judge_the_default_matrix_hold_times_of_all_its_cases():
    references = read_references(BASELINES)
    cases = {case.id for case in matrix_cases("default")}
    judges = {references[case].run_name for case in cases}
    timed = {
        entry["extra_info"]["peft_regress"]["case_id"]
        for path in baseline_files(BASELINES)
        if path.stem in judges
        for entry in read_run_file(path, ledgers=False).document["benchmarks"]
    }
    assert cases <= timed
