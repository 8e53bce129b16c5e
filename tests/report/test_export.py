"""A run as CSV, for other tools."""

import csv
import io
import json
from pathlib import Path

import pytest
from builders import FULL, GALORE, LORA, UNSEEN_LORA, make_record, make_run, write_run
from strategies import fuzz, runs

from peft_regress.cli.export import csv_table
from peft_regress.metrics import Metric
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Failure

ENTRIES = Path(__file__).parents[2] / "baselines" / "Linux-CPython-3.11-64bit"
DEFAULT_ENTRY = ENTRIES / "0004_peft-0.21.2.json"

HOSTILE = '=1+1,"x"\n`|<b>&amp;]]>\x00\x1b[31m\ufffe \u202e@é'
"""A formula, quotes, a newline, Markdown, markup, controls, a character that is none, bidi."""


@pytest.fixture
def run(command):
    return lambda *arguments: command("export", *arguments)


def failed_run():
    """Return a run with a case of each status, one of them with hostile strings."""
    hostile = Metric(value=-1, unit="nat", direction="lower", kind="info")
    return make_run(
        make_record(LORA),
        make_record("a/lora-r4/a", {"peak_bytes": 7, HOSTILE: hostile}),
        make_record(FULL, status="unsupported"),
        make_record(GALORE, status="error", error=Failure(type=HOSTILE, message=f"x\n{HOSTILE}")),
    )


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_csv_has_a_row_a_case_and_metric_with_the_exact_number(run):
    code, out, _ = run(DEFAULT_ENTRY)
    assert code == 0
    rows = {(row["case"], row["metric"]): row for row in rows_of(out)}
    stored = read_run_file(DEFAULT_ENTRY).run
    assert len(rows) == sum(len(record.metrics) for record in stored)
    for name, record in stored.cases.items():
        for metric, value in record.metrics.items():
            row = rows[name, metric]
            assert type(value.value)(row["value"]) == value.value
            assert (row["unit"], row["direction"]) == (value.unit, value.direction)
            assert (json.loads(row["samples"] or "null")) == value.samples


def test_csv_ends_lines_and_quotes_as_rfc_4180_says():
    error = Failure(type="E", message='a,"b"')
    text = csv_table(make_run(make_record(LORA, status="error", error=error)))
    head, row, end = text.split("\r\n")
    assert head.startswith("case,task,method,rank,architecture,status,metric,value,unit")
    assert row.endswith(',"E: a,""b""",')
    assert end == ""
    assert "\n" not in head + row


def test_a_case_in_error_has_a_row_that_says_so():
    rows = {row["case"]: row for row in rows_of(csv_table(failed_run()))}
    assert rows[FULL]["status"] == "unsupported"
    assert rows[FULL]["error"] == "ValueError: no eligible module"
    assert rows[FULL]["metric"] == rows[FULL]["value"] == ""
    # No control character is part of a cell.
    assert all(cell.isprintable() for row in rows.values() for cell in row.values())


def test_hostile_strings_and_failed_cases_give_a_whole_document(run, tmp_path):
    write_run(tmp_path / "run.json", failed_run())
    output = tmp_path / "out"
    code, out, err = run(tmp_path / "run.json", "--output", output)
    assert (code, out) == (0, "")
    assert all(line.isprintable() for line in err.splitlines())
    assert len(rows_of(output.read_bytes().decode())) == 11 + 2 + 2


@pytest.mark.parametrize("name", ["run.json", "x/../run.json", "baselines/x.csv"])
def test_the_run_that_is_read_and_what_is_stored_are_not_overwritten(run, tmp_path, name):
    source = write_run(tmp_path / "run.json", failed_run())
    before = source.read_bytes()
    storage = ("--baselines", tmp_path / "baselines")
    code, out, err = run(source, "--output", tmp_path / name, *storage)
    assert (code, out) == (2, "")
    assert ("lies in the baseline storage" if "x.csv" in name else "is the run that is read") in err
    assert source.read_bytes() == before
    assert not (tmp_path / "baselines").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cases", "nothing*"), "--cases 'nothing*' matches none of the cases of the run"),
        (("--metric", "nothing*"), "--metric 'nothing*' matches none of the metrics"),
    ],
)
def test_a_glob_that_fits_none_is_absent_with_what_there_is(run, options, message):
    code, out, err = run(DEFAULT_ENTRY, *options)
    assert (code, out) == (3, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "."), "is a directory"),
        (("--output", "/dev/full"), "cannot be written"),
        (("--output", "/proc/x/y"), "cannot be written"),
    ],
)
def test_wrong_use_is_exit_2_with_a_message(run, arguments, message):
    code, out, err = run(DEFAULT_ENTRY, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_folder_of_shards_is_exported_like_one_run(run, tmp_path):
    write_run(tmp_path / "1.json", make_run(make_record(LORA)))
    write_run(tmp_path / "2.json", make_run(make_record(UNSEEN_LORA)))
    code, out, _ = run(tmp_path, "--metric", "peak_bytes")
    assert code == 0
    assert [row["case"] for row in rows_of(out)] == [LORA, UNSEEN_LORA]


@fuzz(runs(), examples=150)
def test_whatever_a_run_holds_the_table_has_all_of_it(run):
    numbers = [metric.value for record in run for metric in record.metrics.values()]
    rows = rows_of(csv_table(run))
    assert [float(row["value"]) for row in rows if row["value"]] == [float(n) for n in numbers]
    assert {row["case"] for row in rows} == set(run.cases)
