"""Runs in the formats of other tools, held against what those tools document."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from builders import FULL, GALORE, LORA, UNSEEN_LORA, make_metric, make_record, make_run, write_run
from jsonschema import Draft7Validator
from strategies import fuzz, runs

from peft_regress.cli.main import main
from peft_regress.errors import InputError
from peft_regress.metrics import Metric
from peft_regress.report.export import EXPORTERS, Exporter, register, texts_of
from peft_regress.report.export.bencher import bencher_json
from peft_regress.report.export.csv_table import csv_table
from peft_regress.report.export.github_action_benchmark import github_action_benchmark_json
from peft_regress.report.export.junit import junit_xml
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Failure

ENTRIES = Path(__file__).parents[2] / "baselines" / "Linux-CPython-3.11-64bit"
DEFAULT_ENTRY = ENTRIES / "0004_peft-0.21.2.json"
EXTENDED_ENTRY = ENTRIES / "0005_peft-0.21.2.json"
FORMATS = sorted(EXPORTERS)
BOTH_DIRECTIONS = "github-action-benchmark"

HOSTILE = '=1+1,"x"\n`|<b>&amp;]]>\x00\x1b[31m\ufffe \u202e@é'
"""A formula, quotes, a newline, Markdown, markup, controls, a character that is none, bidi."""

BENCHMARK_RESULTS = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["name", "unit", "value"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string"},
            "unit": {"type": "string"},
            "value": {"type": "number"},
            "range": {"type": "string"},
            "extra": {"type": "string"},
        },
    },
}
"""What customSmallerIsBetter and customBiggerIsBetter take: the README of
github.com/benchmark-action/github-action-benchmark at v1.22.0, and `extractResult`, which refuses
an empty file."""

BENCHER_METRICS = {
    "type": "object",
    "patternProperties": {
        ".+": {
            "type": "object",
            "patternProperties": {
                ".+": {
                    "type": "object",
                    "properties": {
                        key: {"type": "number"} for key in ("value", "lower_value", "upper_value")
                    },
                    "additionalProperties": False,
                    "required": ["value"],
                }
            },
        }
    },
}
"""The schema of bencher.dev/docs/reference/bencher-metric-format, and no other key."""

JUNIT = {
    "testsuites": ({"testsuite"}, set(), {"name", "time", "tests", "failures", "errors"}),
    "testsuite": (
        {"properties", "testcase", "system-out", "system-err"},
        {"name", "tests", "failures", "errors"},
        {"skipped", "time", "timestamp", "hostname", "id", "package"},
    ),
    "properties": ({"property"}, set(), set()),
    "property": (set(), {"name", "value"}, set()),
    "testcase": (
        {"properties", "skipped", "error", "failure", "system-out", "system-err"},
        {"name"},
        {"classname", "time", "group"},
    ),
    "error": (set(), set(), {"type", "message"}),
    "skipped": (set(), set(), {"type", "message"}),
}
"""Children, attributes that are required, attributes that may be: of junit-10.xsd of
github.com/jenkinsci/xunit-plugin, with `properties` in a test case, which that schema does not
have and pytest writes (github.com/testmoapp/junitxml, "Properties for suites & cases")."""


@pytest.fixture
def run(capsys):
    """Call the command in this process and return (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["export", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


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


def check_junit(text):
    """Check every element of a document, and the counts; return its root."""
    root = ET.fromstring(text)
    assert root.tag == "testsuites"
    for element in root.iter():
        children, required, optional = JUNIT[element.tag]
        assert {child.tag for child in element} <= children
        assert required <= set(element.keys()) <= required | optional
    for suite in root.iter("testsuite"):
        assert int(suite.get("tests")) == len(suite.findall("testcase"))
        assert int(suite.get("errors")) == len(suite.findall("testcase/error"))
        assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))
    return root


# --- github-action-benchmark ----------------------------------------------------------------------


def test_github_action_benchmark_has_two_files_with_every_metric_once(run, tmp_path):
    code, out, err = run(DEFAULT_ENTRY, "--to", BOTH_DIRECTIONS, "--output", tmp_path / "out")
    assert (code, out) == (0, "")
    files = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"customSmallerIsBetter", "customBiggerIsBetter"}
    for entries in files.values():
        Draft7Validator(BENCHMARK_RESULTS).validate(entries)
    stored = read_run_file(DEFAULT_ENTRY).run
    expected = {"customSmallerIsBetter": "lower", "customBiggerIsBetter": "higher"}
    for tool, direction in expected.items():
        values = {entry["name"]: entry["value"] for entry in files[tool]}
        assert len(values) == len(files[tool])
        assert values == {
            f"{name} {metric}": value.value
            for name, record in stored.cases.items()
            for metric, value in record.metrics.items()
            if value.direction == direction
        }
    assert "first_losses" in err
    assert "trainable_params" in err


def test_the_range_is_the_farthest_seed_as_the_tool_reads_it():
    (entry,) = json.loads(
        github_action_benchmark_json(
            make_run(make_record(LORA, {"accuracy": [0.5, 0.75, 1.0]})), "higher"
        )
    )
    # The expression of the tool's extractRangeInfo.
    match = re.match(r"(?P<prefix>(\+-|±)\s*)(?P<value>\d.*)", entry["range"])
    assert float(match["value"]) == 0.25
    assert entry["extra"] == "3 seeds: 0.5, 0.75, 1.0"
    assert entry["unit"] == "fraction"


def test_a_metric_without_samples_has_no_range():
    text = github_action_benchmark_json(make_run(make_record(LORA, {"peak_bytes": 7})), "lower")
    assert json.loads(text) == [{"name": f"{LORA} peak_bytes", "unit": "byte", "value": 7}]


def test_one_direction_goes_to_the_terminal(run):
    code, out, err = run(
        DEFAULT_ENTRY, "--to", BOTH_DIRECTIONS, "--direction", "bigger", "--cases", LORA
    )
    assert code == 0
    assert [entry["name"] for entry in json.loads(out)] == [f"{LORA} accuracy"]
    assert "left out" in err


def test_a_direction_without_metrics_is_absent_and_no_empty_file(run, tmp_path):
    narrowed = (DEFAULT_ENTRY, "--to", BOTH_DIRECTIONS, "--metric", "peak*")
    code, out, err = run(*narrowed, "--direction", "bigger")
    assert (code, out) == (3, "")
    assert "bigger" in err
    assert run(*narrowed, "--output", tmp_path / "out")[0] == 0
    assert [path.stem for path in (tmp_path / "out").iterdir()] == ["customSmallerIsBetter"]


def test_a_file_of_an_earlier_export_is_not_left_to_be_taken_for_this_one(run, tmp_path):
    assert run(DEFAULT_ENTRY, "--to", BOTH_DIRECTIONS, "--output", tmp_path)[0] == 0
    before = (tmp_path / "customSmallerIsBetter.json").read_text()
    code, _, err = run(
        DEFAULT_ENTRY, "--to", BOTH_DIRECTIONS, "--output", tmp_path, "--metric", "peak*"
    )
    assert code == 2
    assert "customBiggerIsBetter.json" in err
    assert (tmp_path / "customSmallerIsBetter.json").read_text() == before


def test_names_stay_in_their_cell_of_the_tool_s_comments():
    for entry in json.loads(github_action_benchmark_json(failed_run(), "lower")):
        assert entry["name"].isprintable()
        assert not set("`|") & set(entry["name"])


@pytest.mark.parametrize("names", [("a`", "a'"), ("a\n", "a\\n")])
def test_two_metrics_that_would_be_one_are_refused(run, tmp_path, names):
    metrics = {name: make_metric("peak_bytes", 1) for name in names}
    write_run(tmp_path / "run.json", make_run(make_record(LORA, metrics)))
    target = ("--to", "github-action-benchmark", "--output", tmp_path / "out")
    code, _, err = run(tmp_path / "run.json", *target)
    assert code == 2
    assert "cannot tell two names apart" in err


# --- Bencher --------------------------------------------------------------------------------------


def test_bencher_has_every_metric_of_every_case(run):
    code, out, _ = run(DEFAULT_ENTRY, "--to", "bencher")
    assert code == 0
    exported = json.loads(out)
    Draft7Validator(BENCHER_METRICS).validate(exported)
    stored = read_run_file(DEFAULT_ENTRY).run
    assert exported.keys() == stored.cases.keys()
    for name, record in stored.cases.items():
        for metric, value in record.metrics.items():
            assert exported[name][metric.replace("_", "-")]["value"] == value.value


def test_the_bounds_of_bencher_are_the_lowest_and_the_highest_seed():
    metrics = {
        "accuracy": [0.5, 0.75, 1.0],
        "first_losses": [[2.0, 9.0], [4.0, 1.0]],
        "aten_ops": 3,
    }
    exported = json.loads(bencher_json(make_run(make_record(LORA, metrics))))[LORA]
    assert exported["accuracy"] == {"value": 0.75, "lower_value": 0.5, "upper_value": 1.0}
    # Of a list of losses, one a step, the first is what the value is the mean of.
    assert exported["first-losses"] == {"value": 3.0, "lower_value": 2.0, "upper_value": 4.0}
    assert exported["aten-ops"] == {"value": 3}


@pytest.mark.parametrize("seed", [0.1, 0.7])
def test_the_bounds_hold_a_mean_that_rounding_took_out_of_them(seed):
    text = bencher_json(make_run(make_record(LORA, {"accuracy": [seed] * 3})))
    metric = json.loads(text)[LORA]["accuracy"]
    assert metric["value"] != seed
    assert metric["lower_value"] <= metric["value"] <= metric["upper_value"]


def test_measures_are_slugs_as_bencher_takes_them():
    """`is_valid_slug` of bencher_valid: what slugify leaves as it is, 64 characters at most."""
    for measures in json.loads(bencher_json(failed_run())).values():
        for slug in measures:
            assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)
            assert len(slug) <= 64


@pytest.mark.parametrize(
    ("case", "metric", "message"),
    [
        (LORA, "x" * 65, "64 characters"),
        (LORA, "...", "64 characters"),
    ],
    ids=["long", "empty"],
)
def test_names_that_bencher_refuses_are_refused_here(run, tmp_path, case, metric, message):
    value = Metric(value=1, unit="count", direction="lower", kind="exact")
    write_run(tmp_path / "run.json", make_run(make_record(case, {metric: value})))
    code, out, err = run(tmp_path / "run.json", "--to", "bencher")
    assert (code, out) == (2, "")
    assert message in err


def test_two_metrics_of_one_slug_are_refused():
    value = Metric(value=1, unit="count", direction="lower", kind="exact")
    with pytest.raises(InputError, match="peak-bytes"):
        bencher_json(make_run(make_record(LORA, {"peak_bytes": 1, "Peak bytes": value})))


# --- CSV ------------------------------------------------------------------------------------------


def test_csv_has_a_row_a_case_and_metric_with_the_exact_number(run):
    code, out, _ = run(DEFAULT_ENTRY, "--to", "csv")
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


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "＝", "＋", "－", "＠", "\t=", "\r="])  # noqa: RUF001
def test_no_text_cell_starts_a_formula(start):
    text = f"{start}HYPERLINK(1)"
    value = Metric(value=-1.5, unit="nat", direction="lower", kind="info")
    run = make_run(
        make_record(f"{text}/m/a", {text: value}),
        make_record(LORA, status="error", error=Failure(type=text, message="")),
    )
    first, second = rows_of(csv_table(run))
    for cell in (first["case"], first["task"], first["metric"], second["error"]):
        assert cell[0] in "'\\"
    # A number is a number, below zero too.
    assert first["value"] == "-1.5"


def test_a_control_character_is_no_part_of_a_cell():
    for row in rows_of(csv_table(failed_run())):
        assert all(cell.isprintable() for cell in row.values())


# --- JUnit ----------------------------------------------------------------------------------------


def test_junit_has_a_test_case_a_case_with_its_metrics(run):
    code, out, _ = run(DEFAULT_ENTRY, "--to", "junit")
    assert code == 0
    root = check_junit(out)
    cases = {case.get("name"): case for case in root.iter("testcase")}
    stored = read_run_file(DEFAULT_ENTRY).run
    assert cases.keys() == stored.cases.keys()
    for name, record in stored.cases.items():
        found = {p.get("name"): p.get("value") for p in cases[name].iter("property")}
        assert found == {metric: str(value.value) for metric, value in record.metrics.items()}
    environment = {p.get("name"): p.get("value") for p in root.findall("*/properties/property")}
    assert environment == stored.environment


def test_junit_says_what_could_not_run():
    root = check_junit(junit_xml(failed_run()))
    skipped, error = root.find(".//skipped"), root.find(".//error")
    assert skipped.attrib == {"type": "ValueError", "message": "no eligible module"}
    assert error.text.startswith("x\n=1+1")
    assert root.find("testsuite").get("tests") == "4"


def test_what_xml_has_no_character_for_is_its_escape():
    text = junit_xml(failed_run())
    allowed = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
    assert allowed.fullmatch(text)
    assert r"\x00\x1b[31m\ufffe" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a;=1+1", "a;'=1+1"), ("; @x", "; '@x"), ("a;b=1", "a;b=1"), ("a;-1", "a;'-1")],
)
def test_no_spreadsheet_finds_a_formula_after_a_semicolon(text, shown):
    """Half of the world's spreadsheets split a row there, quoted or not."""
    failed = make_record(LORA, status="error", error=Failure(type="E", message=text))
    (row,) = rows_of(csv_table(make_run(failed)))
    assert row["error"] == f"E: {shown}"


# --- The command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", FORMATS)
def test_hostile_strings_and_failed_cases_give_a_whole_document(run, tmp_path, target):
    write_run(tmp_path / "run.json", failed_run())
    output = tmp_path / "out"
    code, out, err = run(tmp_path / "run.json", "--to", target, "--output", output)
    assert (code, out) == (0, "")
    assert "Traceback" not in err
    assert all(line.isprintable() for line in err.splitlines())
    if target == "csv":
        assert len(rows_of(output.read_bytes().decode())) == 11 + 2 + 2
    elif target == "junit":
        check_junit(output.read_text())
    elif target == "bencher":
        Draft7Validator(BENCHER_METRICS).validate(json.loads(output.read_text()))
        assert f"left out, without a metric: {FULL} {GALORE}" in err
    else:
        for path in output.iterdir():
            Draft7Validator(BENCHMARK_RESULTS).validate(json.loads(path.read_text()))
        assert f"left out, without a metric: {FULL} {GALORE}" in err


@pytest.mark.parametrize("target", FORMATS)
def test_a_long_string_is_written_or_refused_in_a_line(run, tmp_path, target):
    metric = {"x" * 10_000: make_metric("peak_bytes", 1)}
    write_run(tmp_path / "run.json", make_run(make_record(LORA, metric)))
    code, _, err = run(tmp_path / "run.json", "--to", target, "--output", tmp_path / "out")
    assert code == (2 if target == "bencher" else 0)
    assert all(len(line) < 400 for line in err.splitlines() if str(tmp_path) not in line)


@pytest.mark.parametrize("target", ["github-action-benchmark", "bencher"])
def test_a_run_without_any_number_is_refused_where_numbers_are_all(run, tmp_path, target):
    write_run(tmp_path / "run.json", make_run(make_record(LORA, status="error")))
    code, out, err = run(tmp_path / "run.json", "--to", target, "--output", tmp_path / "out")
    assert (code, out) == (3, "")
    assert "none of 1 case has a metric; --to csv and junit show errors" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["run.json", "x/../run.json", "baselines/x.csv"])
def test_the_run_that_is_read_and_what_is_stored_are_not_overwritten(run, tmp_path, name):
    source = write_run(tmp_path / "run.json", failed_run())
    before = source.read_bytes()
    storage = ("--baselines", tmp_path / "baselines")
    code, out, err = run(source, "--to", "csv", "--output", tmp_path / name, *storage)
    assert (code, out) == (2, "")
    assert ("lies in the baseline storage" if "x.csv" in name else "is the run that is read") in err
    assert source.read_bytes() == before
    assert not (tmp_path / "baselines").exists()


def test_a_shard_that_is_read_is_not_overwritten(run, tmp_path):
    source = write_run(tmp_path / "shards" / "bigger.json", failed_run())
    before = source.read_bytes()
    shards = source.parent
    code, _, err = run(shards, "--to", BOTH_DIRECTIONS, "--output", shards)
    assert code == (2 if "is the run that is read" in err else 0)
    assert source.read_bytes() == before


@pytest.mark.parametrize("target", FORMATS)
def test_an_empty_run_is_refused(run, tmp_path, target):
    write_run(tmp_path / "run.json", msgspec.structs.replace(make_run(), cases={}))
    code, out, err = run(tmp_path / "run.json", "--to", target, "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "no case" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cases", "nothing*"), "--cases 'nothing*' matches none of the 96 cases"),
        (("--metric", "nothing*"), "--metric 'nothing*' matches none of the metrics"),
    ],
)
def test_a_glob_that_fits_none_is_absent_with_what_there_is(run, options, message):
    code, out, err = run(DEFAULT_ENTRY, "--to", "csv", *options)
    assert (code, out) == (3, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "xml"), "is not one of"),
        ((), "Missing option '--to'"),
        (
            ("--to", "csv", "--direction", "bigger"),
            "--to github-action-benchmark: csv writes one file",
        ),
        (("--to", "github-action-benchmark"), "--output FOLDER or --direction"),
        (("--to", "csv", "--output", ""), "the name is empty"),
        (("--to", "csv", "--output", "."), "is a folder"),
        (("--to", "github-action-benchmark", "--output", __file__), "is a file"),
        (("--to", "csv", "--output", "/dev/full"), "cannot be written"),
        (("--to", "csv", "--output", "/proc/x/y"), "cannot be written"),
    ],
)
def test_wrong_use_is_exit_2_with_a_message(run, arguments, message):
    code, out, err = run(DEFAULT_ENTRY, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_run_that_cannot_be_trusted_is_not_exported(run, tmp_path):
    path = write_run(tmp_path / "run.json")
    path.write_text(path.read_text().replace("150000", "150001"))
    code, out, err = run(path, "--to", "csv")
    assert (code, out) == (2, "")
    assert "was altered" in err


def test_a_folder_of_shards_is_exported_like_one_run(run, tmp_path):
    write_run(tmp_path / "1.json", make_run(make_record(LORA)))
    write_run(tmp_path / "2.json", make_run(make_record(UNSEEN_LORA)))
    code, out, _ = run(tmp_path, "--to", "csv", "--metric", "peak_bytes")
    assert code == 0
    assert [row["case"] for row in rows_of(out)] == [LORA, UNSEEN_LORA]


@pytest.mark.parametrize(("sink", "code"), [("closed pipe", 141), ("full disk", 2)])
def test_output_that_cannot_be_written_ends_without_a_traceback(sink, code):
    command = [sys.executable, "-m", "peft_regress", "export", str(DEFAULT_ENTRY), "--to", "csv"]
    if sink == "full disk":
        writing = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, writing = os.pipe()
        os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


def test_an_exporter_registers_under_a_name_that_is_free(monkeypatch):
    monkeypatch.setattr("peft_regress.report.export.exporter.EXPORTERS", EXPORTERS.copy())
    added = register(Exporter(name="ids", write=lambda run: {"": " ".join(run.cases)}))
    assert texts_of(added, make_run(make_record(LORA))) == {"": LORA}
    with pytest.raises(ValueError, match="there is an exporter 'csv' already"):
        register(Exporter(name="csv", write=added.write))


@fuzz(runs(), examples=150)
def test_whatever_a_run_holds_every_format_has_all_of_it(run):
    numbers = [metric.value for record in run for metric in record.metrics.values()]
    rows = rows_of(csv_table(run))
    assert [float(row["value"]) for row in rows if row["value"]] == [float(n) for n in numbers]
    assert {row["case"] for row in rows} == set(run.cases)
    root = check_junit(junit_xml(run))
    found = [float(p.get("value")) for case in root.iter("testcase") for p in case.iter("property")]
    assert found == [float(number) for number in numbers]
    measures = json.loads(bencher_json(run)).values()
    assert [m["value"] for case in measures for m in case.values()] == numbers
    for direction in ("lower", "higher"):
        entries = json.loads(github_action_benchmark_json(run, direction))
        metrics = [m for record in run for m in record.metrics.values()]
        assert [e["value"] for e in entries] == [
            m.value for m in metrics if m.direction == direction
        ]
