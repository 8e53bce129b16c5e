"""Run files and storages under pytest-benchmark's own commands, its CSV and its histogram."""

import csv
import functools
import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from builders import FULL, LORA, UNSEEN_LORA, make_record, make_run, write_run
from packaging.requirements import Requirement

from peft_regress.baselines.storage import baseline_files

BASELINES = Path(__file__).parents[2] / "baselines"


def printed(folder, *arguments, absent=()):
    """Return what pytest-benchmark's command prints in a folder; it ends well, without a traceback.

    absent: modules that its environment does not have, and no plugin of pytest either.
    """
    code = f"import sys; sys.modules.update(dict.fromkeys({[*absent]}))\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}from pytest_benchmark.cli import main; main()", *arguments],
        cwd=folder, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def compare(tmp_path):
    return functools.partial(printed, tmp_path, "--storage", BASELINES, "compare")


def csv_rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_stored_entries_with_times_are_compared_case_by_case(compare, tmp_path):
    words = ["-k", "lora-r4 and resnet18", "--columns=median,rounds", "--csv=out.csv"]
    # The last one has no times, which hides no other.
    table = compare("0001", "0002", "0004", *words)
    assert "benchmark 'shift/resnet18': 2 tests" in table
    assert "[shift/lora-r4/resnet18] (0002_peft-0.)" in table
    assert "0004_peft" not in table
    rows = csv_rows(tmp_path / "out.csv")
    assert [row["param:case"] for row in rows] == [LORA, LORA, UNSEEN_LORA, UNSEEN_LORA]
    # A round is a seed.
    assert all(float(row["median"]) > 0 and row["rounds"] == "3" for row in rows)


def test_a_case_in_error_is_no_timed_entry_and_strange_names_are_shown(compare, tmp_path):
    name = "_b+x.y/lora-r4/a-.b+"
    run = make_run(make_record(name), make_record(FULL, status="error"))
    write_run(tmp_path / "run.json", run)
    compare(tmp_path / "run.json", "--csv=out.csv", "--histogram=plots/times")
    assert [row["param:case"] for row in csv_rows(tmp_path / "out.csv")] == [name]
    (plot,) = (tmp_path / "plots").iterdir()
    assert ET.parse(plot).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_the_commands_need_nothing_of_the_tests_though_they_import_their_conftest():
    """As in the environment of `tox -e bench`."""
    root = BASELINES.parent
    groups = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]
    of_tests = {Requirement(one).name for one in groups["test"] if isinstance(one, str)}
    of_tests -= {"pytest-benchmark", "pytest-xdist"}
    modules = packages_distributions().items()
    absent = [name for name, of in modules if of_tests & {one.lower() for one in of}]
    assert {"hypothesis", "syrupy"} <= {*absent}
    table = printed(root, "--storage", "baselines", "compare", "0001", "0002", absent=absent)
    assert f"[{LORA}] (0002_peft-0.)" in table
    listed = printed(root, "--storage", "baselines", "list", absent=absent).splitlines()
    assert listed == [str(path) for path in baseline_files(BASELINES)]
