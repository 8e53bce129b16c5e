"""Run files under `pytest-benchmark compare`, its CSV and its histogram: the real command."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from builders import FULL, LORA, UNSEEN_LORA, make_record, make_run, write_run

BASELINES = Path(__file__).parents[2] / "baselines"
TIMED = ("0001", "0002")
UNTIMED = "0004"


@pytest.fixture
def compare(tmp_path):
    """Compare runs and return what was printed; every run must end well, without a traceback."""

    def call(*arguments: object) -> str:
        command = [sys.executable, "-m", "pytest_benchmark", "--storage", str(BASELINES), "compare"]
        done = subprocess.run(
            [*command, *map(str, arguments)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return call


def csv_rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_stored_entries_with_times_are_compared_case_by_case(compare, tmp_path):
    table = compare(
        *TIMED, "-k", "lora-r4 and resnet18", "--columns=median,rounds", "--csv=out.csv"
    )  # fmt: skip
    assert "benchmark 'shift/resnet18': 2 tests" in table
    assert "[shift/lora-r4/resnet18] (0002_peft-0.)" in table
    rows = csv_rows(tmp_path / "out.csv")
    assert [row["param:case"] for row in rows] == [LORA, LORA, UNSEEN_LORA, UNSEEN_LORA]
    # A round is a seed.
    assert all(float(row["median"]) > 0 and row["rounds"] == "3" for row in rows)


def test_the_histogram_is_one_svg_a_group(compare, tmp_path):
    compare(*TIMED, "-k", "lora-r4 and resnet18", "--histogram=plots/times")
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == ["times-shift_resnet18.svg", "times-unseen_resnet18.svg"]
    for name in plots:
        root = ET.parse(tmp_path / "plots" / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert any("lora-r4" in text for text in root.itertext())


def test_an_entry_without_times_is_an_empty_table_and_no_error(compare, tmp_path):
    table = compare(UNTIMED, "--csv=out.csv", "--histogram=plots/times")
    assert "benchmark '" not in table
    assert csv_rows(tmp_path / "out.csv") == []
    assert not (tmp_path / "plots").exists()


def test_beside_an_entry_without_times_the_others_are_shown(compare):
    table = compare("0002", UNTIMED, "-k", "lora-r4 and resnet18")
    assert "benchmark 'shift/resnet18': 1 tests" in table
    assert "0004_peft" not in table


@pytest.mark.slow
def test_the_whole_storage_is_compared(compare, tmp_path):
    compare("--csv=out.csv")
    assert len(csv_rows(tmp_path / "out.csv")) == 2 * 96


def test_a_case_in_error_is_no_timed_entry_and_hides_no_other(compare, tmp_path):
    run = make_run(make_record(LORA), make_record(FULL, status="error"))
    write_run(tmp_path / "run.json", run)
    table = compare(tmp_path / "run.json", "--histogram=plots/times")
    assert "benchmark 'shift/resnet18': 1 tests" in table
    assert "lora-r4" in table
    assert (tmp_path / "plots" / "times-shift_resnet18.svg").exists()


def test_strange_names_are_shown_and_plotted(compare, tmp_path):
    name = "_b+x.y/lora-r4/a-.b+"
    write_run(tmp_path / "run.json", make_run(make_record(name)))
    compare(tmp_path / "run.json", "--csv=out.csv", "--histogram=plots/times")
    assert csv_rows(tmp_path / "out.csv")[0]["param:case"] == name
    (plot,) = (tmp_path / "plots").iterdir()
    ET.parse(plot)
